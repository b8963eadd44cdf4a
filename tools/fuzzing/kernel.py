"""Kernel files: the guest's, which the host parses too, and those of other users' processes below /proc."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from fuzzing.harness import Harness
from giveback.host import owners, process_sample, procs, smaps
from giveback.host.sockets import sock_diag
from giveback_kernel import (
    buddyinfo,
    cgroup,
    cgroup_stat,
    cpustat,
    kmsg,
    lru_gen,
    memcg,
    memcg_usage,
    meminfo,
    mounts,
    page_reporting,
    pagetypeinfo,
    pressure,
    process_start,
    swaps,
    units,
    vmstat,
    zoneinfo,
    zram,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_FILES = Path(__file__).parents[2] / "tests/unit/helpers/agent_kernel_files"
_WORDS = (
    b"Node 0, ",
    b"zone",
    b" Normal",
    b" kB\n",
    b"MemTotal:",
    b"HugePages_Total:",
    b"total=",
    b"avg10=",
)
_SMAPS = b"""\
7f00-9f00 rw-p 00000000 00:01 7 /memfd:ram (deleted)
Size:                  8 kB
Rss:                   4 kB
Pss:                   4 kB
Private_Dirty:         4 kB
Swap:                  0 kB
VmFlags: rd wr mr mw me ac sd
"""
_STATUS = b"Name:\tqemu\nState:\tS (sleeping)\nVmRSS:\t    4096 kB\nRssAnon:\t 1 kB\nThreads:\t3\n"
_STAT = b"7 (a) b (c) S " + b" ".join(b"%d" % number for number in range(4, 53)) + b"\n"
_MEMCG = (
    b"anon 4096\nfile 8192\ninactive_file 4096\nactive_file 1\nslab_reclaimable 5\nunevictable 0\n"
)


def _seed(name: str) -> bytes:
    return (_FILES / name).read_bytes()


def _units(data: bytes) -> object:
    text = data.decode("utf-8", "surrogateescape")
    return (
        units.parse_size(text),
        units.parse_qemu_size(text),
        units.parse_wsl_size(text),
        units.parse_span(text),
    )


def _sock_diag(data: bytes) -> object:
    found: list[object] = []
    for _, body in sock_diag.parse_messages(data):
        if len(body) >= 72:
            found.append(sock_diag.parse_tcp(body))
        if len(body) >= 16:
            found.append(sock_diag.parse_unix(body))
    return found


def _sock_diag_seed() -> bytes:
    attributes = struct.pack("=HH8s", 12, 1, bytes(8)) + struct.pack("=HH8s", 9, 0, b"/run/")
    body = struct.pack("=BBBBIII", 1, 1, 10, 0, 7, 0, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body


_PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "buddyinfo": (buddyinfo.parse, _seed("buddyinfo")),
    "cgroup": (cgroup.parse, _seed("mountinfo_hybrid")),
    "cgroup-stat": (cgroup_stat.parse, b"nr_descendants 4\nnr_dying_descendants 2\n"),
    "cpustat": (cpustat.parse, _seed("stat")),
    "kmsg": (kmsg.parse, b"6,312,614501,-;hv_balloon: on\n SUBSYSTEM=vmbus\n"),
    "lru-gen": (lru_gen.parse, _seed("lru_gen")),
    "lru-gen-enabled": (lru_gen.parse_enabled, b"0x0007\n"),
    "meminfo": (meminfo.parse, _seed("meminfo")),
    "memcg": (memcg.parse, _MEMCG),
    "memcg-usage": (memcg_usage.parse, _MEMCG),
    "mounts": (mounts.parse_table, b"/dev/sda1 / ext4 rw 0 0\nnone /a\\040b 9p rw 0 0\n"),
    "page-reporting": (page_reporting.parse, b"9\n"),
    "page-reporting-features": (page_reporting.parse_features, b"0110010000000000\n"),
    "pagetypeinfo": (pagetypeinfo.parse, _seed("pagetypeinfo")),
    "pressure": (pressure.parse, _seed("pressure_io")),
    "process": (lambda data: process_sample.parse_process(data, data, 0.0), _STAT + _STATUS),
    "process-start": (process_start.parse_start_ticks, _STAT),
    "process-status": (procs.parse_status, _STATUS),
    "process-uids": (owners.parse_uids, b"Name:\ta\nUid:\t0\t0\t0\t0\n"),
    "smaps": (smaps.parse_smaps, _SMAPS),
    "smaps-maps": (smaps.parse_maps, _SMAPS),
    "smaps-total": (smaps.total, _SMAPS),
    "sock-diag": (_sock_diag, _sock_diag_seed()),
    "swaps": (swaps.parse, _seed("swaps")),
    "units": (_units, b"1.5GiB"),
    "vmstat": (vmstat.parse, _seed("vmstat")),
    "zoneinfo": (zoneinfo.parse, _seed("zoneinfo")),
    "zram": (zram.parse, b"4096 74 12288 0 12288 0 0 0 0\n"),
}
HARNESSES = tuple(Harness(name, parse, (seed,), _WORDS) for name, (parse, seed) in _PARSERS.items())
