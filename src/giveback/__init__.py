"""giveback, host side: watches VMs, accounts for their memory, and runs the lab."""

__version__ = "0.1.0"
