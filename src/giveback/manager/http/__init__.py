"""The daemon's API and metrics, and their client."""
