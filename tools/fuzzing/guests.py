"""Messages between guest and host: each end treats the other as untrusted."""

from __future__ import annotations

import json
from pathlib import Path

from fuzzing.harness import Harness
from giveback.accounting.usage import GuestSource
from giveback.guest import protocol
from giveback.vmm.base import RamBlock, VmDescription
from giveback_agent.host_link import json_lines
from giveback_agent.settings.load import load
from giveback_agent.wsl import wslconfig

_FILES = Path(__file__).parents[2] / "tests/unit/helpers/agent_kernel_files"
_MEMORY = {
    "v": 1, "event": "memory", "id": 5, "report_order": 0, "reporting": True, "page_bytes": 4096,
    "meminfo": (_FILES / "meminfo").read_text()[:3000], "buddyinfo": (_FILES / "buddyinfo").read_text(),
    "pcp_bytes": 4096, "compressed_swap_bytes": 0, "cgroups": ["/system.slice/a.service 1 2 3 4"],
}  # fmt: skip
_EVENTS = (
    {"v": 1, "event": "hello", "agent": "giveback-agent 0.1"},
    {"v": 1, "event": "step", "step": "compact", "text": "compacted"},
    {"v": 1, "event": "pages", "id": 5, "part": 0, "of": 1, "data": "F0.7 C8"},
    {"v": 1, "event": "error", "id": 5, "text": "busy", "retry_s": 1.5},
    {"v": 1, "event": "urgency", "id": 5, "urgency": 2, "lease_s": 60.0},
    _MEMORY,
)
_KEYS = tuple(f'"{key}":'.encode() for key in _MEMORY)
_REQUESTS = (
    {"v": 1, "ask": "memory", "id": 1, "cgroups": True},
    {"v": 1, "id": 2, "urgency": 2, "lease_s": 600.5, "goal_bytes": 1 << 30},
)
_WSL = b"""\
[wsl2]
memory=8GB # half
swap = "4GB"
[experimental]
autoMemoryReclaim=dropcache
idleThreshold = 0x10
kernelCommandLine = "a=\\\\"b\\\\" \\
 c"
"""


def _from_guest(data: bytes) -> object:
    lines = protocol.LineSplitter().feed(data + b"\n") or []
    found = [protocol.parse(line) for line in lines]
    reports = [one for one in found if isinstance(one, protocol.MemoryReport)]
    return found, [protocol.from_agent(one.said, GuestSource.AGENT) for one in reports]


def _from_host(data: bytes) -> object:
    return [json_lines.parse(line) for line in data.split(b"\n")]


def _wslconfig(data: bytes) -> object:
    entries, warnings = wslconfig.parse(data, ".wslconfig")
    for entry in entries:
        wslconfig.parse_bool(entry.value)
        wslconfig.parse_int(entry.value)
    return entries, warnings


def _override(data: bytes) -> object:
    return load("/nonexistent", [data.decode("utf-8", "surrogateescape")], None).warnings


VM = VmDescription("qemu", "a", 1, 1 << 30, (RamBlock("pc.ram", 1 << 30),))
HARNESSES = (
    Harness(
        "wire-from-guest",
        _from_guest,
        tuple(json.dumps(event).encode() for event in _EVENTS),
        (*_KEYS, b'"event":"memory"', b"\\u0000", b"\\ud800"),
    ),
    Harness(
        "wire-from-host",
        _from_host,
        tuple(json.dumps(request).encode() for request in _REQUESTS),
        (b'"ask":', b'"urgency":', b"\\u0000", b"\\ud83d\\ude00", b"1.5e-3"),
        errors=(),
    ),
    Harness(
        "wslconfig", _wslconfig, (_WSL,), (b"[wsl2]\n", b"key = ", b"\\\n", b'"', b"\xef\xbb\xbf")
    ),
    Harness(
        "agent-override", _override, (b"giveback.mode=gradual", b"cacheFloor=1GB", b"swap=true")
    ),
)
