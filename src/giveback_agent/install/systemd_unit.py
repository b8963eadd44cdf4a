"""The systemd unit of the service, and instructions for other init systems. Pure text.

The reasons for missing and unusual lines of the unit:

- The agent writes the kernel's tunables, cgroups and log, which ProtectKernelTunables,
  ProtectControlGroups, ProtectKernelLogs and PrivateDevices would forbid.
- User= is root because root owns these files. Writing them needs no capability: every write was
  tried with an empty set. *Reading* /dev/kmsg needs CAP_SYSLOG if kernel.dmesg_restrict is 1. The
  cgroups below user@.service and of rootless containers belong to their user: without
  CAP_DAC_OVERRIDE their cold cache would stay.
- SCHED_IDLE is not enough. It has an effect only within a cgroup. Between cgroups only weights
  count, and the agent's would equal that of user.slice. Measured on one CPU, against a busy program
  in a sibling cgroup: the agent got half of it, and under 1 % with CPUWeight=1. Hence Slice=-.slice
  (a sibling of everything) and the lowest weight; at urgency 3 the service raises the weight itself
  (service/cpu_weight.py), which needs a cgroup of its own. Not cpu.idle: kernels before 5.15 lack
  it, and the agent needs some CPU to stop when the workload comes back.
- MemoryMax is far above the memory of a step; OOMPolicy keeps the service when a worker is killed.
- AF_UNIX and AF_VSOCK are the channel from the host, and WSL's interop.
"""

from __future__ import annotations

NAME = "giveback-agent.service"
UNIT_FOLDER = "/etc/systemd/system"
UNIT_PATH = f"{UNIT_FOLDER}/{NAME}"
PACKAGE_PATHS = (f"/usr/lib/systemd/system/{NAME}", f"/lib/systemd/system/{NAME}")
"""The unit of a package (deb, rpm), which `install` does not write."""
WANTS_PATH = f"{UNIT_FOLDER}/multi-user.target.wants/{NAME}"
WANTS_TARGET = f"../{NAME}"

_UNIT = """\
[Unit]
Description=Gives this VM's unused memory back to its host

[Service]
Type=exec
ExecStart={launcher} run
# Also after a crash: the report order must not stay lowered.
ExecStopPost=-{launcher} repair
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=2
RuntimeDirectory=giveback
# Another agent, started manually, may have its lock and its records there when this one refuses.
RuntimeDirectoryPreserve=yes
StateDirectory=giveback
UMask=0022

# It must not slow other programs: only idle CPU and disk, against every other cgroup.
Slice=-.slice
CPUSchedulingPolicy=idle
CPUWeight=1
# Lets it leave SCHED_IDLE, up to nice 0, at urgency 3.
LimitNICE=+0
IOSchedulingClass=idle
MemoryMax=160M
OOMPolicy=continue
TasksMax=16

CapabilityBoundingSet=CAP_SYSLOG CAP_DAC_OVERRIDE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
DevicePolicy=closed
DeviceAllow=/dev/kmsg rw
DeviceAllow=char-virtio-portsdev rw
ProtectKernelTunables=no
ProtectControlGroups=no
ProtectKernelLogs=no
ProtectKernelModules=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_VSOCK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

_OPENRC = """\
OpenRC starts the services in /etc/init.d. As root:

cat > /etc/init.d/giveback-agent <<'END'
#!/sbin/openrc-run
description="Gives this VM's unused memory back to its host"
supervisor=supervise-daemon
command={launcher}
command_args=run
respawn_delay=10
stop_post() {{
    {launcher} repair
}}
END
chmod +x /etc/init.d/giveback-agent
rc-update add giveback-agent default
rc-service giveback-agent start
"""

_RUNIT = """\
runit starts the services in its service folder. As root:

mkdir -p /etc/sv/giveback-agent
cat > /etc/sv/giveback-agent/run <<'END'
#!/bin/sh
exec {launcher} run 2>&1
END
printf '#!/bin/sh\\nexec {launcher} repair\\n' > /etc/sv/giveback-agent/finish
chmod +x /etc/sv/giveback-agent/run /etc/sv/giveback-agent/finish
ln -s /etc/sv/giveback-agent /var/service/   # Debian: /etc/service/
"""

_SYSVINIT = """\
With sysvinit, init itself keeps it running. As root:

echo 'gb:2345:respawn:{launcher} run' >> /etc/inittab
telinit q
"""

_WSL = """\
WSL without systemd: put one of these two into /etc/wsl.conf, then run `wsl --shutdown` in Windows.

[boot]
systemd=true      # then run `giveback-agent install` again

[boot]
command={launcher} run
"""

_WSL_RECLAIM = """\
WSL's own reclaim drops the whole page cache beside the agent's steps. To leave it to the agent, put this into
%UserProfile%\\.wslconfig in Windows:

[experimental]
autoMemoryReclaim=disabled

That would switch the agent off, too. So put this into /etc/giveback.conf here:

[giveback]
mode=adaptive

Both count after `wsl --shutdown` in Windows. `giveback-agent config` then shows what is in effect.
"""

_NONE = """\
No init system is recognised here. Start this as root at every boot, and again if it ends:

{launcher} run
"""

_HINTS = {"openrc": _OPENRC, "runit": _RUNIT, "sysvinit": _SYSVINIT, "wsl": _WSL}


def unit(launcher: str) -> str:
    """Return the systemd unit that runs `launcher`, the path of giveback-agent."""
    return _UNIT.format(launcher=launcher)


def hint(init: str, launcher: str) -> str:
    """Return the instructions for another init system: `openrc`, `runit`, `sysvinit`, `wsl` or any."""
    return _HINTS.get(init, _NONE).format(launcher=launcher)


def wsl_reclaim() -> str:
    """Return what to put into .wslconfig and /etc/giveback.conf, so that only the agent reclaims."""
    return _WSL_RECLAIM
