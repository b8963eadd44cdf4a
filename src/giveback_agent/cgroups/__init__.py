"""The guest's memory by service and container, and which of them the agent leaves alone."""
