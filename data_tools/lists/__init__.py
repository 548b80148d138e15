"""Lists of the official splits."""
