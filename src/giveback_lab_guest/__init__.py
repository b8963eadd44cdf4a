"""Runs in the lab's guests: workloads and measuring. Standard library only, Python >= 3.9."""
