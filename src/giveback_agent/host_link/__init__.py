"""The link to the host over virtio-serial or vsock."""
