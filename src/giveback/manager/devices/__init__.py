"""Memory taken from guests by a balloon or virtio-mem, under a lease that returns it."""
