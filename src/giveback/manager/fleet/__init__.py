"""The VMs of this host: discovery, samples, connections to agents, and requests for memory."""
