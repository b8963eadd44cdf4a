"""The daemon's systemd unit as text, and the reasons for its lines. Pure.

- CAP_SYS_PTRACE: to read /proc/PID/smaps and /proc/PID/root of VMMs that run as other users.
- CAP_DAC_OVERRIDE: connecting to a socket needs write permission, and QMP sockets belong to those users.
- CAP_CHOWN: to set the socket's group, if the settings name one.
- ProtectHome=read-only and no PrivateTmp: QMP sockets may be in /tmp, /home and /run/user. A socket on a
  read-only file system can be connected to all the same.
- ProcSubset and ProtectProc are not set, because the daemon reads other processes.
- AF_NETLINK: the kernel's own list of sockets (sock_diag) shows whether a VM's process listens at a socket
  that it names. CAP_SYS_PTRACE is needed for this as well: /proc/PID/fd of other users. CAP_SYS_ADMIN is
  not needed, because no other network namespace is entered.
- RestrictSUIDSGID is not set: it makes openat2(2) fail, because a system call filter cannot read its
  arguments. Without openat2 no socket's path can be resolved within its VM's root. ProtectSystem=strict
  leaves the daemon only its own folders to write to.
- AF_VSOCK is the agents' channel, AF_INET is for /metrics on loopback; no other address is allowed.
- TasksMax: up to 48 readers may hang at other users' processes, and calls of libvirt use threads.
- OOMScoreAdjust: if the host is out of memory, this process must survive to free some.
- nss-user-lookup.target: settings name users and groups, and those of a directory service come later. An
  unknown name ends the daemon with code 2, after which it is not started again.
- StartLimitIntervalSec=0: a full or read-only disk may stay so for longer than five starts.
- WatchdogSec: the event loop notifies systemd that it runs. If it blocks, systemd restarts the daemon.
  NotifyAccess=main: its reader processes cannot send this notification.
- TimeoutStopSec: balloons are deflated before the daemon ends.
- KillMode=process: readers end when the daemon does, as their socket is closed then. One that hangs at a
  stranger's file system ignores SIGKILL, and systemd would wait for it twice TimeoutStopSec before it
  starts another daemon.
"""

from __future__ import annotations

from giveback.errors import InputError

NAME = "giveback-daemon.service"
UNIT_PATH = f"/etc/systemd/system/{NAME}"
_PATH_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-@")

_UNIT = """\
[Unit]
Description=giveback: returns VMs' unused memory to this host
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
KillMode=process
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
    """Return the systemd unit that runs `program daemon`; `program` is giveback's full path.

    `loopback`: whether /metrics may be served on a loopback port. Raises InputError for a path that a unit
    cannot contain.
    """
    if not program.startswith("/") or not set(program) <= _PATH_CHARS:
        raise InputError(
            f"{program!r}: a unit cannot contain this path; install giveback at a path of "
            "letters, digits and /._+-@ only"
        )
    return _UNIT.format(
        program=program,
        families=" AF_INET AF_INET6" if loopback else "",
        allowed="IPAddressAllow=localhost\n" if loopback else "",
    )
