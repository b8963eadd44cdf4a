"""The VMs of this host: found, sampled, asked."""
