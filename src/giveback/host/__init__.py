"""The host's kernel interfaces: pure parsers, and thin readers that take a root path."""
