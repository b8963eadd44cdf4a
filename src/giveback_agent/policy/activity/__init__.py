"""How busy the guest is, and how often to sample it."""
