"""One file per hypervisor: recognise its VMs, and ask it for the state of one."""
