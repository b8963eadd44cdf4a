"""Processes of other users with arbitrary command lines: VMs, and strangers that claim to be VMs.

Each is a real process of its own uid, perhaps in a root and a network namespace of its own. A socket that
it listens at answers QMP, and every connection and byte that arrives is on record.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from named_python import ENVIRONMENT, python_named

if TYPE_CHECKING:
    from collections.abc import Iterator

VICTIM, MALLORY = 64001, 21002
"""The uid of a service and that of a user who may log in; neither owns files on this host."""

_PROGRAM = r"""
import ctypes, json, os, selectors, socket, sys
spec = json.loads(sys.argv[1])
log = open(spec["log"], "ab", buffering=0)
libc = ctypes.CDLL(None)
if spec["own_network"]:
    assert libc.unshare(0x40000000) == 0
if spec["jail"]:
    os.chroot(spec["jail"])
    os.chdir("/")
os.setgroups([])
os.setgid(spec["uid"])
os.setuid(spec["uid"])
libc.prctl(4, 1, 0, 0, 0)
wake, known, peers = selectors.DefaultSelector(), {}, {}
os.umask(0o177)
for place in spec["listen"]:
    if place == "tcp":
        server = socket.create_server(("127.0.0.1", 0))
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind("\0" + place[1:] if place[0] == "@" else place)
        server.listen()
    wake.register(server, 1)
    known[server] = place
ports = [s.getsockname()[1] for s, place in known.items() if place == "tcp"]
print(ports[0] if ports else 0, flush=True)
wake.register(0, 1)
while True:
    for key, _ in wake.select():
        if key.fileobj == 0:
            sys.exit()
        if key.fileobj in known:
            client, _ = key.fileobj.accept()
            credentials = client.getsockopt(1, 17, 12) if client.family == socket.AF_UNIX else bytes(12)
            peers[client] = int.from_bytes(credentials[:4], sys.byteorder)
            log.write(b"%d connected %s\n" % (peers[client], known[key.fileobj].encode()))
            client.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
            wake.register(client, 1)
            continue
        try:
            data = key.fileobj.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            wake.unregister(key.fileobj)
            key.fileobj.close()
            continue
        log.write(b"%d received %r\n" % (peers[key.fileobj], data))
        try:
            asked = json.loads(data)
            answer = {name: asked[name] for name in ("id",) if name in asked}
            is_known = asked["execute"] == "qmp_capabilities"
            answer |= {"return": {}} if is_known else {"error": {"class": "CommandNotFound", "desc": ""}}
        except (ValueError, TypeError, KeyError):
            continue
        key.fileobj.sendall(json.dumps(answer).encode() + b"\r\n")
"""


@dataclass(frozen=True)
class Stranger:
    """A process and the data received at its sockets. `port` is that of its TCP socket, or 0."""

    pid: int
    port: int
    log: Path

    @property
    def heard(self) -> str:
        """The connections and bytes received from this process or its readers, one per line.

        Other programs on this host may run giveback, too. TCP does not show the peer: see `connected_to`.
        """
        ours = _ourselves()
        lines = self.log.read_text().splitlines(keepends=True)
        split = (line.split(" ", 1) for line in lines)
        return "".join(text for pid, text in split if int(pid) in ours)


def _ourselves() -> set[int]:
    """Return the PIDs of this process and its descendants: its readers connect for it while it runs."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
    ours: set[int] = set()
    found = {os.getpid()}
    while found:
        ours |= found
        found = {pid for pid, parent in parents.items() if parent in found}
    return ours


_connected: list[object] = []
"""Addresses to which this process has connected a socket since the first call of `connected_to`."""


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        _connected.append(arguments[1])


@functools.cache
def _watch() -> None:
    sys.addaudithook(_hook)


def connected_to(port: int) -> bool:
    """Tell whether this process has connected to a TCP port since the first call."""
    _watch()
    return any(isinstance(address, tuple) and address[1] == port for address in _connected)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that, unlike pytest's, every user may read and write."""
    with tempfile.TemporaryDirectory(prefix="giveback-strangers-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextlib.contextmanager
def stranger(
    log: Path, words: list[str], *, uid: int, listen: tuple[str, ...] = (), jail: str = "",
    own_network: bool = False,
) -> Iterator[Stranger]:  # fmt: skip
    """Run a process of `uid` with this command line, which listens at these paths, `@names` or "tcp"."""
    log.touch()
    spec = {"uid": uid, "listen": listen, "jail": jail, "own_network": own_network}
    spec["log"] = str(log)
    with subprocess.Popen(
        [words[0], "-S", "-c", _PROGRAM, json.dumps(spec), *words[1:]],
        executable=python_named(words[0]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as child:
        try:
            assert child.stdout is not None
            port = child.stdout.readline()
            assert port, "it did not start"
            yield Stranger(child.pid, int(port), log)
        finally:
            child.kill()


def needs_root() -> bool:
    """Tell whether this user cannot become other users: only root can."""
    return os.geteuid() != 0
