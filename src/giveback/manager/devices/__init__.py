"""Memory taken by a device, with a lease that gives it back."""
