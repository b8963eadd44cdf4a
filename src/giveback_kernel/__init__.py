"""One module per kernel interface: pure parsers, thin readers that take a root path."""

__version__ = "0.1.0"
"""Of all three distributions: giveback-agent, giveback and giveback-lab."""
