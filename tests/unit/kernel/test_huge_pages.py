"""The page block order where no file names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given
from hypothesis import strategies as st

from giveback_kernel import huge_pages, page_reporting
from giveback_kernel.huge_pages import pageblock_order, pmd_order

if TYPE_CHECKING:
    from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("hugepagesize_bytes", "page_size_bytes", "expected"),
    [
        (2 * MIB, 4 * KIB, 9),
        (512 * MIB, 64 * KIB, 13),
        (32 * MIB, 16 * KIB, 11),
        (0, 4 * KIB, None),
        (None, 4 * KIB, None),
        (1 * KIB, 4 * KIB, None),
    ],
)
def test_the_page_block_order_from_the_huge_page_size(
    hugepagesize_bytes: int | None, page_size_bytes: int, expected: int | None
) -> None:
    assert pageblock_order(hugepagesize_bytes, page_size_bytes) == expected


@pytest.mark.parametrize(
    ("hugepagesize_bytes", "page_size_bytes", "largest", "pmd_bytes", "expected"),
    [
        (1 * GIB, 4 * KIB, 10, 2 * MIB, 9),
        (1 * GIB, 4 * KIB, 10, None, 9),
        # arm64: 64 KiB and 2 MiB of contiguous entries, 16 GiB of contiguous PMDs.
        (64 * KIB, 4 * KIB, 10, None, 9),
        (64 * KIB, 4 * KIB, 10, 2 * MIB, 9),
        (2 * MIB, 64 * KIB, 13, None, 13),
        (2 * MIB, 64 * KIB, 13, 512 * MIB, 13),
        (16 * GIB, 64 * KIB, 13, None, 13),
        (2 * MIB, 16 * KIB, 11, None, 11),
        (1 * GIB, 16 * KIB, 11, 32 * MIB, 11),
        # The allocator's largest block is smaller than a huge page.
        (512 * MIB, 64 * KIB, 10, 512 * MIB, 10),
        (16 * GIB, 4 * KIB, 8, None, 8),
        # No hugetlb in this kernel, or nonsense: transparent huge pages, else the largest block.
        (None, 4 * KIB, 10, 2 * MIB, 9),
        (0, 4 * KIB, 10, 2 * MIB, 9),
        (None, 4 * KIB, 10, None, 10),
        (0, 4 * KIB, 10, None, 10),
        # s390 and 32-bit x86.
        (1 * MIB, 4 * KIB, 8, None, 8),
        (4 * MIB, 4 * KIB, 10, None, 10),
    ],
)
def test_the_default_hugetlb_size_moves_no_page_block(
    hugepagesize_bytes: int | None,
    page_size_bytes: int,
    largest: int,
    pmd_bytes: int | None,
    expected: int,
) -> None:
    assert pageblock_order(hugepagesize_bytes, page_size_bytes, largest, pmd_bytes) == expected


SIZES = st.none() | st.integers(0, 1 << 57)


@given(SIZES, st.sampled_from((4 * KIB, 16 * KIB, 64 * KIB)), st.integers(0, 31), SIZES)
def test_the_order_exists_in_the_allocator(
    hugepagesize_bytes: int | None, page_size_bytes: int, largest: int, pmd_bytes: int | None
) -> None:
    order = pageblock_order(hugepagesize_bytes, page_size_bytes, largest, pmd_bytes)
    assert order is not None
    assert 0 <= order <= largest


def test_the_huge_pages_order_is_the_page_tables_where_it_is_not_printed() -> None:
    assert pmd_order(2 << 20, 4096) == 9
    assert pmd_order(1 << 20, 4096) == 8
    assert [pmd_order(None, size) for size in (4096, 16384, 65536)] == [9, 11, 13]
    assert pmd_order(1 << 30, 4096) == 9
    assert pmd_order(1 << 30, 4096, 2 << 20) == 9


@pytest.mark.parametrize(
    ("data", "expected"), [(b"2097152\n", 2 * MIB), (b"0\n", None), (b"-1\n", None), (b"", None)]
)
def test_the_size_of_a_transparent_huge_page(
    tmp_path: Path, data: bytes, expected: int | None
) -> None:
    assert huge_pages.read_pmd_size_bytes(str(tmp_path)) is None
    root = plant(tmp_path, {huge_pages.PMD_SIZE_PATH: data})
    assert huge_pages.read_pmd_size_bytes(root) == expected


def test_a_guest_with_pages_of_one_gib_reports_from_order_9(tmp_path: Path) -> None:
    memory = sample("meminfo").replace(b"Hugepagesize:       2048 kB", b"Hugepagesize: 1048576 kB")
    assert b"1048576 kB" in memory
    root = plant(tmp_path, {"/proc/meminfo": memory, "/proc/buddyinfo": sample("buddyinfo")})
    assert page_reporting.read_pageblock_order(root) == 9
    plant(tmp_path, {huge_pages.PMD_SIZE_PATH: b"2097152\n"})
    assert page_reporting.read_pageblock_order(root) == 9
