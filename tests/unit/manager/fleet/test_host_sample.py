"""The sums of a VM's process, read from /proc; and the record of its last sample."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from giveback.accounting.activity import UNKNOWN
from giveback.host.process_sample import ProcessSample
from giveback.manager.decide.resident_counts import Counts
from giveback.manager.fleet import host_sample

MIB = 1 << 20
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
    counts = host_sample.parse_counts(STATUS.encode())
    assert counts == Counts(512000 << 10, 64 << 10, 2048 << 10, 1200 << 10, 812345 << 10)
    assert counts.resident_bytes == (512000 + 2048) << 10
    assert host_sample.parse_counts(b"Name:\tkthreadd\n") is None


@given(st.binary(max_size=300))
def test_no_text_does_harm(text: bytes) -> None:
    host_sample.parse_counts(text)


def test_this_process_has_sums_and_one_that_has_gone_has_none(tmp_path: Path) -> None:
    own = host_sample.read_counts("/", os.getpid())
    assert own is not None
    assert own.rss_bytes > 4 * MIB
    assert host_sample.read_counts(str(tmp_path), 1) is None


def test_a_process_is_sampled_at_most_once_a_second_and_its_uptime_goes_on() -> None:
    host = host_sample.HostSample(0.0)
    assert host.needs_process(0.0)
    assert host.activity_at(5.0) == UNKNOWN
    first = ProcessSample(at_s=100.0, started_s=90.0, cpu_s=1.0, uid=107, swap_bytes=0)
    host.take_process(first, 0.0)
    assert not host.needs_process(0.9)
    assert host.needs_process(1.0)
    assert host.activity_at(3.0).uptime_s == 13.0
    assert host.activity_at(3.0).cpu_percent == 10.0
    host.take_process(ProcessSample(102.0, 90.0, 2.0, 107, 4 * MIB), 2.0)
    known = host.activity_at(2.0)
    assert (known.uptime_s, known.cpu_percent, known.swap_out_bytes_per_s) == (12.0, 50.0, 2 * MIB)
    host.take_process(None, 4.0)
    assert host.activity_at(9.0) == UNKNOWN


def test_a_process_that_is_stopped_or_continued_is_noticed_once() -> None:
    host = host_sample.HostSample(0.0)
    running = ProcessSample(at_s=100.0, started_s=90.0, cpu_s=1.0, uid=107, swap_bytes=0)
    stopped = replace(running, is_stopped=True)
    samples = (running, stopped, stopped, running, stopped, None)
    changed = [host.take_process(sample, float(at)) for at, sample in enumerate(samples)]
    assert changed == [False, True, False, True, True, True]
    assert not host.is_stopped
