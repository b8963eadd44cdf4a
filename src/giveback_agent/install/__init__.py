"""Install the agent as a service, and remove it."""
