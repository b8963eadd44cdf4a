"""The agent's settings: their table, and the files and options that set them."""
