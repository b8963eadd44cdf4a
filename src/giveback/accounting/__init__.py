"""Account for every byte of a VM: where it is, and why it has not come back."""
