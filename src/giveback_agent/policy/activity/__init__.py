"""How busy the guest is, and how often to look at it."""
