"""Where every byte of a VM is, and why it has not come back."""
