"""The foundation: what is written to disk, how it is named, and how it is known to be fresh."""
