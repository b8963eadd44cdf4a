"""The daemon's settings file: read, checked, and merged for each VM."""
