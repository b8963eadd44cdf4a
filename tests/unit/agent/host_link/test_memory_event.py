"""The memory report of a guest: kernel files as they are, and counters that these lack."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant

from giveback.accounting.ledger import Key, join
from giveback.accounting.usage import GuestSource, HostSnapshot
from giveback.guest.protocol import from_agent
from giveback_agent.host_link.memory_event import memory_report
from giveback_kernel import kpageflags, zoneinfo
from giveback_kernel.errors import KernelFileError

MIB = 1 << 20


def test_free_pages_on_per_cpu_lists_are_told_and_become_a_row(tmp_path: Path) -> None:
    root = plant(tmp_path, GUEST)
    pages = zoneinfo.pcp_pages(zoneinfo.parse(GUEST["/proc/zoneinfo"]))
    assert pages > 0
    said = memory_report(root)
    assert said["pcp_bytes"] == pages * 4096
    guest = from_agent(said, GuestSource.AGENT)
    ledger = join(HostSnapshot(32 << 30), guest, 32 << 30)
    assert ledger.ram(Key.PCP) == pages * 4096


def test_a_guest_without_the_finer_files_is_told_all_the_same(tmp_path: Path) -> None:
    few = {path: GUEST[path] for path in ("/proc/meminfo", "/proc/stat")}
    said = memory_report(plant(tmp_path, few))
    assert (said["pcp_bytes"], said["compressed_swap_bytes"], said["buddyinfo"]) == (None, None, "")
    assert said["stall_percent"] is None
    assert from_agent(said, GuestSource.AGENT).total_bytes
    with pytest.raises(KernelFileError):
        memory_report(str(tmp_path / "none"))


def test_compressed_swap_is_what_zsmalloc_holds(tmp_path: Path) -> None:
    said = memory_report(
        plant(tmp_path, GUEST | {"/proc/vmstat": b"nr_free_pages 1\nnr_zspages 256\n"})
    )
    assert said["compressed_swap_bytes"] == MIB


def test_vmalloc_has_the_kernel_stacks_in_it(tmp_path: Path) -> None:
    lines = GUEST["/proc/meminfo"].splitlines(keepends=True)
    without = b"".join(li for li in lines if not li.startswith((b"VmallocUsed", b"SecPageTables")))
    told = without + b"VmallocUsed:       65536 kB\nSecPageTables:      1024 kB\n"
    amounts = []
    for meminfo in (without, told):
        root = plant(tmp_path, GUEST | {"/proc/meminfo": meminfo})
        amounts.append(from_agent(memory_report(root), GuestSource.AGENT).kernel_bytes or 0)
    stacks = next(int(li.split()[1]) for li in lines if li.startswith(b"KernelStack"))
    assert amounts[1] - amounts[0] == 65 * MIB - (stacks << 10)


def test_runs_are_packed_a_chunk_at_a_time(tmp_path: Path) -> None:
    free = (1 << 10).to_bytes(8, "little")
    root = plant(tmp_path, {**GUEST, "/proc/kpageflags": free * 70_000})
    text = memory_report(root, pages=True)["pages"]
    assert isinstance(text, str)
    assert zlib.decompress(base64.b64decode(text)) == b"F65536F4464"
    chunks = list(kpageflags.read_chunks(root))
    assert chunks == [[(kpageflags.FREE, 65_536)], [(kpageflags.FREE, 4_464)]]


def test_how_long_tasks_waited_for_memory_is_told(tmp_path: Path) -> None:
    text = b"some avg10=12.34 avg60=0.00 avg300=0.00 total=5\n"
    said = memory_report(plant(tmp_path, {**GUEST, "/proc/pressure/memory": text}))
    assert from_agent(said, GuestSource.AGENT).stall_percent == 12.34
    for absurd in (-1, 101, "x", None, True, 10**400, float("nan")):
        assert from_agent(said | {"stall_percent": absurd}, GuestSource.AGENT).stall_percent is None
