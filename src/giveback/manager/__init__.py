"""`giveback daemon`, the host manager: it returns VMs' memory when the host needs it."""
