"""Sockets by the kernel's own list and by descriptors: whose they are, never by their names."""
