"""The process itself: children, signals, its files under /run."""
