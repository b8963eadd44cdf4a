"""The service as systemd, and other inits, are told of it. Pure text.

Every line that could be expected and is missing has its reason here:

- The kernel's tunables, cgroups and log are what the agent writes: ProtectKernelTunables,
  ProtectControlGroups, ProtectKernelLogs and PrivateDevices would take them away.
- User= is root because root owns these files. It needs no capability for them: every write was
  tried with an empty set. *Reading* /dev/kmsg does, where kernel.dmesg_restrict is 1; and so do the
  cgroups below user@.service and of rootless containers, which belong to their user: without
  CAP_DAC_OVERRIDE the cold cache of all that runs there would stay.
- SCHED_IDLE alone is not enough. It ranks tasks within one cgroup; between cgroups only weights
  count, and the agent's would have an equal share with all of user.slice. Measured on one CPU: half
  of it against a busy program in a sibling cgroup, under 1 % with CPUWeight=1. Hence Slice=-.slice
  (a sibling of everything) and the least weight there is; at urgency 3 the service raises it itself
  (`share`), which needs the cgroup to be its own. Not cpu.idle: kernels before 5.15 lack
  it, and the agent has to get some CPU to stop when work comes back.
- MemoryMax is far above what a step takes; OOMPolicy keeps the service when a worker dies.
- AF_UNIX and AF_VSOCK are the host's way in, and WSL's interop.
"""

from __future__ import annotations

NAME = "giveback-agent.service"
UNIT_FOLDER = "/etc/systemd/system"
UNIT_PATH = f"{UNIT_FOLDER}/{NAME}"
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
# Another agent, started by hand, may have its lock and its records there when this one refuses.
RuntimeDirectoryPreserve=yes
StateDirectory=giveback
UMask=0022

# Its work must not be felt: idle CPU and disk only, against every other cgroup.
Slice=-.slice
CPUSchedulingPolicy=idle
CPUWeight=1
# Lets it leave SCHED_IDLE, no further than nice 0, while the host starves (urgency 3).
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
OpenRC starts what is in /etc/init.d. As root:

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
runit starts what is in its service folder. As root:

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
sysvinit: let init itself keep it running. As root:

echo 'gb:2345:respawn:{launcher} run' >> /etc/inittab
telinit q
"""

_WSL = """\
WSL without systemd: one of the two in /etc/wsl.conf, then `wsl --shutdown` in Windows.

[boot]
systemd=true      # then run `giveback-agent install` once more

[boot]
command={launcher} run
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
    """Return what to do where the init is not systemd: `openrc`, `runit`, `sysvinit`, `wsl` or any."""
    return _HINTS.get(init, _NONE).format(launcher=launcher)
