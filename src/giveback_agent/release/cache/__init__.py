"""Which cache and memory can be taken, and taking it."""
