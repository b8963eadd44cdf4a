"""The virtio-serial link to the host."""
