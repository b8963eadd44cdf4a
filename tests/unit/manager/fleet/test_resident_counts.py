"""The host's side at little cost: sums that are exact, mappings that are read when they must be."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from giveback.accounting.usage import HostPicture
from giveback.manager.fleet import resident_counts, socket_queues
from giveback.manager.fleet.resident_counts import Counts, Mappings

MIB = 1 << 20
AMOUNTS = st.integers(0, 1 << 40)
STATUS = """Name:\tqemu
VmPeak:\t  900000 kB
VmHWM:\t  812345 kB
VmRSS:\t  512000 kB
RssAnon:\t  500000 kB
VmPTE:\t    1200 kB
VmSwap:\t      64 kB
HugetlbPages:\t    2048 kB
Threads:\t3
"""


def test_the_sums_of_a_process() -> None:
    counts = resident_counts.parse_counts(STATUS.encode())
    assert counts == Counts(512000 << 10, 64 << 10, 2048 << 10, 1200 << 10, 812345 << 10)
    assert counts.resident_bytes == (512000 + 2048) << 10
    assert resident_counts.parse_counts(b"Name:\tkthreadd\n") is None


@given(st.binary(max_size=300))
def test_no_text_does_harm(text: bytes) -> None:
    resident_counts.parse_counts(text)
    socket_queues.parse(text)


def test_this_process_has_sums_and_one_that_has_gone_has_none(tmp_path: Path) -> None:
    own = resident_counts.read_counts("/", os.getpid())
    assert own is not None
    assert own.rss_bytes > 4 * MIB
    assert resident_counts.read_counts(str(tmp_path), 1) is None


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_a_picture_is_carried_to_exactly_the_sums_of_now(
    ram: int, own: int, swap: int, rss: int, swapped: int, ram_bytes: int, hugetlb: int
) -> None:
    before = HostPicture(ram, ram_swap_bytes=swap, own_resident_bytes=own, own_pss_bytes=own)
    mappings = Mappings(before, Counts(ram + own, swap), 0.0, 0.001)
    now = Counts(rss, swapped, hugetlb)
    after = resident_counts.carried(mappings, now, ram_bytes)
    assert after.resident_bytes == now.resident_bytes
    assert after.ram_swap_bytes + after.own_swap_bytes == swapped
    assert min(after.ram_resident_bytes, after.own_resident_bytes, after.ram_swap_bytes) >= 0
    assert after.ram_resident_bytes <= max(ram, ram_bytes)


def test_memory_that_went_while_the_mappings_were_read_is_not_missed() -> None:
    picture = HostPicture(224 * MIB, own_resident_bytes=8 * MIB)
    held, freed = Counts(232 * MIB), Counts(72 * MIB)
    assert resident_counts.base(picture, held, held) == held
    mappings = Mappings(picture, resident_counts.base(picture, held, freed), 0.0, 0.001)
    assert resident_counts.carried(mappings, freed, 256 * MIB).ram_resident_bytes == 64 * MIB


def test_mappings_are_read_when_much_has_moved_or_long_ago() -> None:
    old = Mappings(HostPicture(1 << 30), Counts(1 << 30), 1000.0, 0.05)
    same, moved = Counts(1 << 30), Counts((1 << 30) + 40 * MIB)
    assert resident_counts.must_read_mappings(None, same, 0.0)
    assert not resident_counts.must_read_mappings(old, same, 1010.0)
    assert resident_counts.must_read_mappings(old, moved, 1010.0)
    assert not resident_counts.must_read_mappings(old, moved, 1004.0), (
        "at most a hundredth of the time"
    )
    assert resident_counts.must_read_mappings(old, same, 1301.0)
    assert resident_counts.must_read_mappings(old, Counts(1 << 30, 40 * MIB), 1010.0)


TABLE = b"""Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 100 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 03 101 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 02 102 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 03 103 /run/with space.sock
0000000000000000: 00000003 00000000 00000000 0001 02 104 /run/c.sock
0000000000000000: 00000003 00000000 00000000 0001 03 105
"""


def test_who_is_served_and_who_waits() -> None:
    found = socket_queues.parse(TABLE)
    assert found.has_waiting("/proc/12/root/run/a.sock")
    assert found.has_waiting("/tmp/fake/proc/12/root/run/a.sock")
    assert found.serves("/run/with space.sock")
    assert not found.has_waiting("/run/with space.sock")
    assert not found.serves("/run/c.sock")
    assert not found.has_waiting("/run/c.sock"), "not taken yet, but nobody is served before"
    assert socket_queues.read("/nowhere") == socket_queues.Queues()
