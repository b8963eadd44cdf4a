"""The daemon as systemd is told of it. Pure text; what each line costs or needs is said here.

- CAP_SYS_PTRACE: /proc/PID/smaps and /proc/PID/root of VMMs that run as other users.
- CAP_DAC_OVERRIDE: to connect to a socket is to write to it, and QMP's belong to those users.
- CAP_CHOWN: the socket's group, where settings name one.
- ProtectHome=read-only and no PrivateTmp: QMP sockets lie in /tmp, /home and /run/user, too. A
  socket on a file system that is read-only can be connected to all the same.
- ProcSubset and ProtectProc stay open: it is other processes that are looked at.
- AF_NETLINK: the kernel's own list of sockets (sock_diag), by which a VM's process is known to listen at
  what it names. CAP_SYS_PTRACE serves this, too: /proc/PID/fd of other users. CAP_SYS_ADMIN is not needed: no
  other network namespace is entered.
- AF_VSOCK is the agents' channel, AF_INET is /metrics on loopback; no other address is let through.
- TasksMax: up to 48 readers may hang at strangers' processes; libvirt's calls have threads.
- OOMScoreAdjust: when the host is out of memory it is this process that still gets some back.
- nss-user-lookup.target: settings name users and groups, and those of a directory service come later; a
  name that is unknown ends the daemon with code 2, after which it is not started again.
- StartLimitIntervalSec=0: a full or read-only disk may stay so for longer than five starts.
- WatchdogSec: the event loop says that it goes round; if it waits for what never comes, systemd ends
  the daemon and starts another. NotifyAccess=main: none of its reader processes can say it.
- TimeoutStopSec: balloons are deflated before it ends.
"""

from __future__ import annotations

from giveback.errors import InputError

NAME = "giveback-daemon.service"
UNIT_PATH = f"/etc/systemd/system/{NAME}"
_PATH_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-@")

_UNIT = """\
[Unit]
Description=Gives VMs' unused memory back to this host when it needs it
After=libvirtd.service virtqemud.service nss-user-lookup.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
WatchdogSec=60
ExecStart={program} daemon
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2
TimeoutStopSec=90
KillMode=mixed
StateDirectory=giveback-daemon
StateDirectoryMode=0750
RuntimeDirectory=giveback-daemon
RuntimeDirectoryMode=0755
ConfigurationDirectory=giveback
UMask=0027

OOMScoreAdjust=-900
MemoryMax=1G
TasksMax=128
LimitNOFILE=65536

CapabilityBoundingSet=CAP_SYS_PTRACE CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_VSOCK AF_NETLINK{families}
IPAddressDeny=any
{allowed}RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=@chown
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def unit_text(program: str, *, loopback: bool = True) -> str:
    """The systemd unit that runs `program daemon`; `program` is giveback's full path.

    `loopback`: whether /metrics may be served on a loopback port. Raises InputError for a path that
    a unit cannot hold.
    """
    if not program.startswith("/") or not set(program) <= _PATH_CHARS:
        raise InputError(
            f"{program!r}: no path that a unit can hold; install giveback where the path has "
            "letters, digits and /._+-@ only"
        )
    return _UNIT.format(
        program=program,
        families=" AF_INET AF_INET6" if loopback else "",
        allowed="IPAddressAllow=localhost\n" if loopback else "",
    )
