"""The guest's memory by service and container, and the cgroups that the agent leaves alone."""
