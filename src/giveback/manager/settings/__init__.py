"""The daemon's settings file, read and checked."""
