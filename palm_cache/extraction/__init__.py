"""Stage one: audio files and class names through a frozen encoder into a feature store."""
