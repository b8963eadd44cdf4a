"""The trigger: which block it passes through the allocator, and when it passes none."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.release import trigger_reporting
from giveback_kernel import page_reporting
from giveback_kernel.buddyinfo import BuddyInfo, ZoneBlocks
from giveback_kernel.errors import KernelFileError
from giveback_kernel.zoneinfo import Zone, ZoneInfo

LOW_PAGES = 14_000


def buddy(counts: tuple[int, ...], page_size_bytes: int = 4096) -> BuddyInfo:
    return BuddyInfo((ZoneBlocks(0, "DMA32", counts),), page_size_bytes)


def zones(free_pages: int, low_pages: int = LOW_PAGES) -> ZoneInfo:
    return ZoneInfo(
        (
            Zone(0, "DMA", 3_000, 100, 3_840, 0),
            Zone(0, "DMA32", free_pages, low_pages, 1 << 19, 0),
        )
    )


ROOMY = buddy((100,) * 11)


@pytest.mark.parametrize(
    ("report_order", "thp_order", "order"),
    [
        # Up to order 3, and at the huge page's order, a freed block stays on a per-CPU list.
        (0, 9, 4), (3, 9, 4), (4, 9, 4), (5, 9, 5), (8, 9, 8), (9, 9, 10), (10, 9, 10),
        # arm64 with 64 KiB pages: virtio asks for order 5.
        (5, 13, 5), (13, 13, 14),
    ],
)  # fmt: skip
def test_the_block_bypasses_the_per_cpu_lists(
    report_order: int, thp_order: int, order: int
) -> None:
    assert trigger_reporting.block_order(report_order, thp_order) == order


def test_reporting_is_triggered_by_64_kib_at_order_0_and_4_mib_at_order_9() -> None:
    assert trigger_reporting.plan(0, 9, ROOMY, zones(400_000)) == trigger_reporting.TriggerPlan(
        4, 64 << 10
    )
    assert trigger_reporting.plan(9, 9, ROOMY, zones(400_000)) == trigger_reporting.TriggerPlan(
        10, 4 << 20
    )


@pytest.mark.parametrize(
    ("report_order", "counts", "free_pages", "why"),
    [
        (9, (100,) * 10 + (0,), 400_000, "no free block of order 10"),
        (0, (900, 40, 3, 1) + (0,) * 7, 400_000, "no free block of order 4"),
        (10, (100,) * 10, 400_000, "no block above report order 10"),
        # The kernel skips a zone without 32 blocks above its low watermark.
        (9, (100,) * 11, LOW_PAGES + (32 << 9), "near its low watermark"),
        (0, (100,) * 11, LOW_PAGES, "near its low watermark"),
    ],
)
def test_it_refuses_where_no_pass_would_come_of_it(
    report_order: int, counts: tuple[int, ...], free_pages: int, why: str
) -> None:
    refused = trigger_reporting.plan(report_order, 9, buddy(counts), zones(free_pages))
    assert refused.order is None
    assert why in refused.refused


def test_it_refuses_a_block_that_is_a_large_part_of_what_is_free() -> None:
    refused = trigger_reporting.plan(9, 9, ROOMY, zones(20_000, low_pages=100))
    assert refused.order is None
    assert "too much" in refused.refused


@given(
    st.integers(0, 14),
    st.integers(8, 13),
    st.lists(st.integers(0, 1 << 20), min_size=1, max_size=15).map(tuple),
    st.integers(0, 1 << 30),
    st.integers(0, 1 << 30),
)
def test_the_guest_is_never_brought_near_its_watermark(
    report_order: int, thp_order: int, counts: tuple[int, ...], free_pages: int, low_pages: int
) -> None:
    made = trigger_reporting.plan(
        report_order, thp_order, buddy(counts), zones(free_pages, low_pages)
    )
    if made.order is None:
        assert made.refused
        assert made.block_bytes == 0
        return
    pages = made.block_bytes // 4096
    assert pages == 1 << made.order
    assert made.order >= report_order
    assert made.order > trigger_reporting.PCP_MOST_ORDER
    assert made.order != thp_order
    assert any(counts[made.order :])
    assert free_pages - pages > low_pages
    assert pages <= free_pages // 32


def test_it_reads_a_sysctl_and_says_what_block_that_took(tmp_path: Path) -> None:
    root = plant(tmp_path, {**GUEST, trigger_reporting.SYSCTL_PATH: b"Linux\n"})
    done = trigger_reporting.trigger(root)
    assert (done.done, done.order, done.block_bytes) == (True, 10, 4 << 20)
    page_reporting.write_order(root, 0)
    assert trigger_reporting.trigger(root).block_bytes == 64 << 10


def test_a_guest_without_sysctls_is_told_of(tmp_path: Path) -> None:
    root = plant(tmp_path, GUEST)
    with pytest.raises(KernelFileError, match="ostype"):
        trigger_reporting.trigger(root)


@pytest.mark.parametrize("name", ["/proc/buddyinfo", "/proc/meminfo", "/proc/zoneinfo"])
def test_an_invalid_kernel_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    root = plant(
        tmp_path, {**GUEST, trigger_reporting.SYSCTL_PATH: b"Linux\n", name: b"nonsense\n"}
    )
    with pytest.raises(KernelFileError, match=name):
        trigger_reporting.trigger(root)


def test_it_runs_on_this_machine_without_touching_its_buffer() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    trigger_reporting._read_sysctl("/", 2 << 20)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
