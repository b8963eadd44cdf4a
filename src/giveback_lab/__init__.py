"""The lab: guest images, real VMs, workloads."""
