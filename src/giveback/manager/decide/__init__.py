"""The manager's decisions: pure functions without a clock or I/O."""
