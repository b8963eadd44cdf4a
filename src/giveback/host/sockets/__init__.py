"""Find the owners of sockets by the kernel's own list and by descriptors, never by their names."""
