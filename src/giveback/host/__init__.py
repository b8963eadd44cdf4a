"""Host kernel interfaces: pure parsers, thin readers that take a root path."""
