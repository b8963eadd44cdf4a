"""The manager's history: recorded, rolled up, read and drawn."""
