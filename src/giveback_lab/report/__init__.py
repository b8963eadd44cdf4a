"""Charts and pages from measured series."""
