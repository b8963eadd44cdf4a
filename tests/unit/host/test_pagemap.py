"""pagemap: both interfaces agree with each other and with the pages that were touched."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import VmError
from giveback.host import pagemap

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = 4096
SIZE_BYTES = PAGES * pagemap.PAGE_BYTES


@pytest.fixture
def memory() -> Iterator[tuple[mmap.mmap, int]]:
    """Anonymous private memory of small pages, and its address."""
    with mmap.mmap(-1, SIZE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_NOHUGEPAGE)
        # The list of mappings may change while it is read; the address of this one does not.
        yield area, ctypes.addressof(ctypes.c_char.from_buffer(area))


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 7, 513])
def test_touched_pages_are_present(memory: tuple[mmap.mmap, int], stride: int, scan: bool) -> None:
    area, start = memory
    for page in range(0, PAGES, stride):
        area[page * pagemap.PAGE_BYTES] = 1
    states = pagemap.read_states(os.getpid(), start, start + SIZE_BYTES, scan=scan)
    expected = np.zeros(PAGES, dtype=np.uint8)
    expected[::stride] = pagemap.PRESENT
    assert np.array_equal(states, expected)


def test_a_scan_goes_on_after_a_full_answer(
    memory: tuple[mmap.mmap, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    area, start = memory
    chosen = random.Random(4).sample(range(PAGES), 900)
    for page in chosen:
        area[page * pagemap.PAGE_BYTES] = 1
    slow = pagemap.read_states(os.getpid(), start, start + SIZE_BYTES, scan=False)
    for least in (0, 8):
        monkeypatch.setattr(pagemap, "_REGIONS", 16)
        monkeypatch.setattr(pagemap, "_LEAST_PAGES_PER_REGION", least)
        fast = pagemap.read_states(os.getpid(), start, start + SIZE_BYTES)
        assert np.array_equal(fast, slow)


@given(
    st.lists(st.sampled_from([0, 1 << 63, 1 << 62, 1 << 55, 3 << 62]), max_size=50),
    st.binary(max_size=7),
)
def test_entries_decode(entries: list[int], rest: bytes) -> None:
    raw = np.array(entries, dtype="u8").tobytes() + rest
    expected = [1 if e >> 63 else 2 if e >> 62 & 1 else 0 for e in entries]
    assert pagemap.states_from_entries(raw).tolist() == expected


def test_the_error_says_that_a_process_has_ended() -> None:
    with pytest.raises(VmError, match="has ended"):
        pagemap.read_states(4_194_305, 0, 4096)
