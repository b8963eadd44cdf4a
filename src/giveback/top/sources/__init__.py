"""Where `giveback top` has its snapshots from: the daemon, this host itself, the history."""
