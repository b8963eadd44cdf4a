"""The manager's decisions: pure, no clock, no I/O."""
