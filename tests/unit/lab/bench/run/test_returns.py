"""Pages that leave and return: counted per scan, on generated RAM and on a real memfd."""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import VmError
from giveback.host.pagemap import PAGE_BYTES, PRESENT, read_states
from giveback_lab.bench.run.returns import REGRET_S, ReturnCounts, ram_range

PAGES = 16
SCANS = st.lists(
    st.tuples(st.floats(0.1, 40.0), st.lists(st.booleans(), min_size=PAGES, max_size=PAGES)),
    min_size=1,
    max_size=12,
)


@given(SCANS)
def test_the_counts_are_those_of_each_page_alone(scans: list[tuple[float, list[bool]]]) -> None:
    counts, t_s = ReturnCounts(), 0.0
    before: list[bool] | None = None
    returned_at_s: dict[int, float] = {}
    faulted = returned = regretted = 0
    for step_s, present in scans:
        t_s = float(np.float32(t_s + step_s))
        for page, is_there in enumerate(present):
            if before is None or is_there == before[page]:
                continue
            if is_there:
                faulted += 1
                regretted += returned_at_s.get(page, -1e9) >= t_s - REGRET_S
            else:
                returned += 1
                returned_at_s[page] = t_s
        before = present
        flow = counts.update(t_s, np.array(present))
        assert flow.faulted_bytes == faulted * PAGE_BYTES
        assert flow.returned_bytes == returned * PAGE_BYTES
        assert flow.regret_bytes == regretted * PAGE_BYTES


def test_a_minute_counts_from_the_return_wherever_the_zero_is() -> None:
    counts = ReturnCounts()
    there, gone = np.array([True]), np.array([False])
    counts.update(100.0, there)
    counts.update(110.0, gone)
    counts.shift(110.0)
    assert counts.update(59.0, there).regret_bytes == PAGE_BYTES
    counts.update(60.0, gone)
    assert counts.update(121.0, there).regret_bytes == PAGE_BYTES
    assert counts.update(121.0, there).faulted_bytes == 2 * PAGE_BYTES


def test_a_real_memfd_shows_what_was_touched_and_punched_out() -> None:
    """As QEMU makes the RAM, and as it returns a page: fallocate() with a hole."""
    fd = os.memfd_create("memory-backend-memfd")
    os.ftruncate(fd, 64 * PAGE_BYTES)
    with mmap.mmap(fd, 64 * PAGE_BYTES) as ram:
        counts = ReturnCounts()
        start, end = ram_range(os.getpid())
        assert end - start == 64 * PAGE_BYTES

        def scan(t_s: float) -> tuple[int, int, int]:
            flow = counts.update(t_s, read_states(os.getpid(), start, end) == PRESENT)
            sums = (flow.faulted_bytes, flow.returned_bytes, flow.regret_bytes)
            return tuple(one // PAGE_BYTES for one in sums)  # type: ignore[return-value]

        assert scan(0.0) == (0, 0, 0)
        for page in range(8):
            ram[page * PAGE_BYTES] = 1
        assert scan(2.0) == (8, 0, 0)
        # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
        length = ctypes.c_long(4 * PAGE_BYTES)
        assert ctypes.CDLL(None).fallocate(fd, 1 | 2, ctypes.c_long(0), length) == 0
        assert scan(4.0) == (8, 4, 0)
        ram[0] = ram[9 * PAGE_BYTES] = 1
        assert scan(6.0) == (10, 4, 1)
    os.close(fd)


def test_a_process_without_guest_ram_is_an_error() -> None:
    with pytest.raises(VmError, match="maps no guest RAM"):
        ram_range(os.getpid())
