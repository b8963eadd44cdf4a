"""giveback, host side: finds VMs, accounts for their memory, and manages it."""
