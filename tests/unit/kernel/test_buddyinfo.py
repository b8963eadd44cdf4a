"""/proc/buddyinfo: what is reportable, and what is trapped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import buddyinfo
from giveback_kernel.buddyinfo import BuddyInfo, ZoneBlocks
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from pathlib import Path

PAGE_SIZES = st.sampled_from([4096, 16384, 65536])


@st.composite
def buddies(draw: st.DrawFn) -> BuddyInfo:
    orders = draw(st.integers(1, 14))
    zones = draw(
        st.lists(
            st.builds(
                ZoneBlocks,
                st.integers(0, 3),
                st.sampled_from(["DMA", "DMA32", "Normal", "Movable"]),
                st.lists(st.integers(0, 100_000), min_size=orders, max_size=orders).map(tuple),
            ),
            min_size=1,
            max_size=6,
        )
    )
    return BuddyInfo(tuple(zones), draw(PAGE_SIZES))


def written(buddy: BuddyInfo) -> bytes:
    text = ""
    for zone in buddy.zones:
        counts = "".join(f"{count:6d} " for count in zone.counts)
        text += f"Node {zone.node}, zone {zone.zone:>8} {counts}\n"
    return text.encode()


@settings(deadline=None)
@given(buddies())
def test_what_is_written_is_read_back(buddy: BuddyInfo) -> None:
    assert buddyinfo.parse(written(buddy), buddy.page_size_bytes) == buddy


@settings(deadline=None)
@given(buddies(), st.integers(-2, 20))
def test_free_is_reportable_or_trapped(buddy: BuddyInfo, order: int) -> None:
    for node in (None, *buddyinfo.nodes(buddy)):
        reportable = buddyinfo.reportable_bytes(buddy, order, node)
        trapped = buddyinfo.trapped_bytes(buddy, order, node)
        assert reportable >= 0
        assert trapped >= 0
        assert reportable + trapped == buddyinfo.free_bytes(buddy, node=node)
        assert sum(buddyinfo.by_order(buddy, node)) == buddyinfo.free_bytes(buddy, node=node)
        assert sum(buddyinfo.by_order(buddy, node)[max(0, order) :]) == reportable


@settings(deadline=None)
@given(buddies(), st.integers(0, 14))
def test_the_nodes_add_up(buddy: BuddyInfo, order: int) -> None:
    nodes = buddyinfo.nodes(buddy)
    assert sum(buddyinfo.trapped_bytes(buddy, order, node) for node in nodes) == (
        buddyinfo.trapped_bytes(buddy, order)
    )


@settings(deadline=None)
@given(buddies(), st.integers(0, 14))
def test_a_lower_order_traps_no_more(buddy: BuddyInfo, order: int) -> None:
    assert buddyinfo.trapped_bytes(buddy, order) <= buddyinfo.trapped_bytes(buddy, order + 1)
    assert buddyinfo.trapped_bytes(buddy, 0) == 0
    assert buddyinfo.reportable_bytes(buddy, buddyinfo.max_order(buddy) + 1) == 0


def test_a_real_file() -> None:
    buddy = buddyinfo.parse(sample("buddyinfo"))
    assert [zone.zone for zone in buddy.zones] == ["DMA", "DMA32", "Normal"]
    assert buddyinfo.nodes(buddy) == (0,)
    assert buddyinfo.max_order(buddy) == 10
    by_hand = sum(zone.counts[9] * 512 + zone.counts[10] * 1024 for zone in buddy.zones) * 4096
    assert buddyinfo.reportable_bytes(buddy, 9) == by_hand


def test_this_machine() -> None:
    buddy = buddyinfo.read_buddyinfo()
    assert buddy.page_size_bytes == os.sysconf("SC_PAGE_SIZE")
    assert buddyinfo.free_bytes(buddy) > 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"Node 0, zone   Normal      1      2",
        b"Node 0, zone   Normal\n",
        b"Node x, zone   Normal      1\n",
        b"Node 0 zone   Normal      1\n",
        b"Node 0, zone   Normal      1     -2\n",
        b"Node 0, zone   Normal      1    two\n",
        b"Node 0, zone   Normal" + b" 1" * 33 + b"\n",
        b"Node 0, zone   Normal 9007199254740991 9007199254740991\n",
        b"Node 0, zone   Normal      1\n\n",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="/proc/buddyinfo"):
        buddyinfo.parse(data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match=str(tmp_path)):
        buddyinfo.read_buddyinfo(plant(tmp_path, {}))


def test_no_zones_means_no_memory() -> None:
    nothing = BuddyInfo((), 4096)
    assert buddyinfo.free_bytes(nothing) == 0
    assert buddyinfo.max_order(nothing) == 0
    assert buddyinfo.by_order(nothing) == (0,)
