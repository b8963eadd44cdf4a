"""A small host under pressure."""
