"""VMs for the host's commands: real processes with scripted guests and monitors."""

from __future__ import annotations

import json
import socketserver
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from scripted_vmm import listening, process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


MIB = 1 << 20
MEMINFO = """\
MemTotal:          59392 kB
MemFree:           32768 kB
MemAvailable:      45056 kB
Buffers:            1024 kB
Cached:            10240 kB
SwapCached:            0 kB
Active:             4096 kB
Inactive:           4096 kB
Active(anon):       2048 kB
Inactive(anon):     2048 kB
Active(file):       2048 kB
Inactive(file):     6144 kB
Unevictable:           0 kB
Mlocked:               0 kB
SwapTotal:             0 kB
SwapFree:              0 kB
Dirty:                64 kB
Writeback:             0 kB
AnonPages:          4096 kB
Mapped:             1024 kB
Shmem:               512 kB
KReclaimable:       2048 kB
Slab:               4096 kB
SReclaimable:       2048 kB
SUnreclaim:         2048 kB
KernelStack:         512 kB
PageTables:          512 kB
Percpu:              256 kB
Hugepagesize:       2048 kB
"""
BUDDYINFO = "Node 0, zone   Normal   1024  1024  256  64  8  4  2  1  1  1  3\n"


class Agent(socketserver.StreamRequestHandler):
    """A guest's agent that answers the ledger's requests; it first sends an unrequested event."""

    said: ClassVar[dict[str, object]] = {
        "event": "memory", "page_bytes": 4096, "reporting": True, "report_order": 9,
        "meminfo": MEMINFO, "buddyinfo": BUDDYINFO,
    }  # fmt: skip

    def handle(self) -> None:
        self.wfile.write(b'{"event": "step", "text": "\\u001b[2J"}\n')
        while line := self.rfile.readline():
            if line.strip():
                self.reply(json.loads(line))

    def reply(self, asked: dict[str, object]) -> None:
        self.write(self.said | {"id": asked["id"]})

    def write(self, message: dict[str, object]) -> None:
        self.wfile.write(json.dumps(message).encode() + b"\n")


class Liar(Agent):
    said = Agent.said | {"meminfo": MEMINFO.replace("32768", "99999999")}


class Endless(Agent):
    def handle(self) -> None:
        while True:
            self.wfile.write(b"x" * 65536)


class Garbage(Agent):
    def handle(self) -> None:
        self.wfile.write(b'\xff\x00\n[]\n"x"\n{"event": "memory", "meminfo": 5}\n')


class Monitor(socketserver.StreamRequestHandler):
    """A QMP monitor of a VM with a balloon whose driver accepted reporting."""

    answers: ClassVar[dict[str, object]] = {
        "query-status": {"running": True},
        "query-memory-size-summary": {"base-memory": 64 * MIB, "plugged-memory": 0},
        "query-balloon": {"actual": 64 * MIB},
        "qom-list": [{"name": "b0", "type": "child<virtio-balloon-pci>"}],
        "qom-get": {"last-update": 0, "stats": {"stat-free-memory": 2**64 - 1}},
        "x-query-virtio-status": {
            "guest-features": {"dev-features": ["VIRTIO_BALLOON_F_REPORTING: on"]}
        },
        "query-migrate-capabilities": [{"capability": "background-snapshot", "state": True}],
    }

    def handle(self) -> None:
        self.wfile.write(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        while line := self.request.recv(65536):
            asked = json.loads(line)  # one question at a time, and no line ends
            reply = {"return": self.answers.get(asked["execute"], {}), "id": asked.get("id")}
            self.wfile.write(json.dumps(reply).encode() + b"\r\n")


class BareMonitor(Monitor):
    """A QMP monitor of a VM without a balloon."""

    answers = Monitor.answers | {"query-balloon": None, "qom-list": []}


@contextmanager
def vm(
    directory: Path, name: str = "cmd-one", agent: type[Agent] = Agent, *, balloon: bool = True
) -> Iterator[int]:
    """Run a VM of 64 MiB, of which 48 MiB are resident and the guest uses 32 MiB (including reserved)."""
    words = ["-m", "64M", "-name", name, "-qmp", f"unix:{directory}/{name}.q,server=on,wait=off"]
    words += ["-chardev", f"socket,id=c,path={directory}/{name}.a,server=on,wait=off"]
    words += ["-device", "virtserialport,chardev=c,name=org.giveback.agent.0"]
    if balloon:
        words += ["-device", "virtio-balloon-pci,free-page-reporting=on"]
    with (
        process("/opt/qemu-system-x86_64", *words, memory="anonymous:64:48") as found,
        listening(directory / f"{name}.a", agent),
        listening(directory / f"{name}.q", Monitor if balloon else BareMonitor),
    ):
        yield found.pid
