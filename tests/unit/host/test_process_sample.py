"""The owner, CPU time and swap of a process: the parsers, and this process itself."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from giveback.host.process_sample import (
    TICKS_PER_S,
    ProcessSample,
    parse_process,
    read_process_sample,
)

STAT = b"4711 (qemu) (x) S 1 4711 4711 0 -1 4194560 90000 0 12 0 %d %d 0 0 20 0 4 0 %d 1 2 3\n" % (
    5 * TICKS_PER_S,
    2 * TICKS_PER_S,
    100 * TICKS_PER_S,
)
STATUS = b"Name:\tqemu\nUid:\t1000\t107\t107\t107\nVmRSS:\t  512 kB\nVmSwap:\t      64 kB\n"


def test_both_files_are_parsed() -> None:
    assert parse_process(STAT, STATUS, 160.0) == ProcessSample(160.0, 100.0, 7.0, 107, 64 << 10)


def test_missing_lines_are_unknown() -> None:
    found = parse_process(STAT, b"", 160.0)
    assert found is not None
    assert (found.uid, found.swap_bytes) == (None, None)
    assert parse_process(b"", STATUS, 1.0) is None
    assert parse_process(STAT[:60], STATUS, 1.0) is None
    assert parse_process(STAT.replace(b"%d" % (5 * TICKS_PER_S), b"-1", 1), STATUS, 1.0) is None


def test_a_process_name_cannot_forge_a_line() -> None:
    named = STATUS.replace(b"Name:\tqemu", b"Name:\tUid:\t0\t0")
    found = parse_process(STAT, named, 1.0)
    assert found is not None
    assert found.uid == 107


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_text_is_parsed_or_refused(stat: bytes, status: bytes) -> None:
    for found in (parse_process(stat, status, 1.0), parse_process(STAT, status, 1.0)):
        assert found is None or found.cpu_s >= 0


def test_this_process_is_sampled(tmp_path: Path) -> None:
    one = read_process_sample("/", os.getpid())
    two = read_process_sample("/", os.getpid())
    assert one is not None
    assert two is not None
    assert one.uid == os.geteuid()
    assert 0 < one.started_s <= one.at_s <= two.at_s
    assert 0 < one.cpu_s <= two.cpu_s
    assert read_process_sample(str(tmp_path), 1) is None
