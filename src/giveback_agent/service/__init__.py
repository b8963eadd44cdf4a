"""The service: sample, decide, act."""
