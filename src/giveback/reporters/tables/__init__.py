"""Tables of VMs: their columns, and how they fit a terminal."""
