"""One file per hypervisor: recognise its VMs, and ask it about one."""
