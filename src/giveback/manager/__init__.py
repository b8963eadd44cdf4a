"""`giveback daemon`: memory back when the host needs it."""
