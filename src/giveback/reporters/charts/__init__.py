"""Charts: block characters for a terminal, matplotlib for files."""
