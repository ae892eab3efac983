"""From a file that anybody may have made to the sound in it."""
