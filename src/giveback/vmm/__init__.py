"""Hypervisors: what is known of a VM (base, mapping, layout), and how it is found (find)."""
