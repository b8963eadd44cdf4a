"""The protocols that VMMs speak, and reading their answers without trust."""
