"""One module per kernel interface: pure parsers, thin readers that take a root path."""
