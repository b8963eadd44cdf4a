"""Real VMs of the lab."""
