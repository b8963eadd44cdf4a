"""A process is its id and its start time."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from giveback_kernel import process_start

STAT = b"7 (a) b (c) S " + b" ".join(b"%d" % number for number in range(4, 53))


def test_the_name_of_a_process_may_hold_anything() -> None:
    assert process_start.parse_start_ticks(STAT) == 22
    assert process_start.parse_start_ticks(b"7 (x S 1 2) " + STAT.rpartition(b") ")[2]) == 22


@given(st.one_of(st.binary(max_size=300), st.integers(0, len(STAT)).map(lambda n: STAT[:n])))
def test_nonsense_is_no_time_and_names_no_process(text: bytes) -> None:
    ticks = process_start.parse_start_ticks(text)
    assert ticks is None or ticks >= 0
    assert process_start.running(text) is None


def test_this_process_runs_and_one_of_another_time_does_not() -> None:
    line = process_start.identity().encode()
    assert process_start.running(line) == os.getpid()
    pid, ticks = line.split()
    assert process_start.running(b"%s %d\n" % (pid, int(ticks) + 1)) is None
    assert process_start.running(pid + b"\n") is None
    assert process_start.running(b"%s %s" % (b"9" * 5000, ticks)) is None


def test_a_process_that_has_ended_does_not_run_though_its_parent_has_not_asked() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    line = process_start.identity(child.pid).encode()
    assert process_start.running(line) == child.pid
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start.running(line) is None
    child.communicate()
