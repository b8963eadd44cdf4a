"""A VM's devices: balloon, virtio-mem, the agent's port."""
