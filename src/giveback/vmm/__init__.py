"""Hypervisors, one file each."""
