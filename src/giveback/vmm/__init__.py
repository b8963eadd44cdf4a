"""Hypervisors: descriptions of VMs (base, mapping, layout), and the search for them (find)."""
