"""What was: recorded, rolled up, read, drawn."""
