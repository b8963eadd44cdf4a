"""/proc/stat, and how busy a guest was between two readings."""

from __future__ import annotations

import pytest
from agent_kernel_samples import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import cpustat
from giveback_kernel.cpustat import CpuStat, busy_fraction
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import replace

TICKS = st.integers(0, 1 << 60)
STATS = st.builds(
    CpuStat,
    *[TICKS] * 8,
    st.integers(1, 64),
    st.none() | st.integers(0, 1 << 40),
    st.none() | st.integers(0, 1 << 20),
)


def written(stat: CpuStat) -> bytes:
    columns = " ".join(str(getattr(stat, name)) for name in cpustat._COLUMNS)
    text = f"cpu  {columns} 0 0\n"
    text += "".join(f"cpu{cpu} {columns} 0 0\n" for cpu in range(stat.cpus))
    text += "intr 97520 0 0 25 1\nctxt 197761\n"
    if stat.btime_s is not None:
        text += f"btime {stat.btime_s}\n"
    text += "processes 4124\n"
    if stat.procs_running is not None:
        text += f"procs_running {stat.procs_running}\n"
    return (text + "procs_blocked 0\n").encode()


@settings(deadline=None)
@given(STATS)
def test_what_is_written_is_read_back(stat: CpuStat) -> None:
    assert cpustat.parse(written(stat)) == stat


def test_a_real_file() -> None:
    stat = cpustat.parse(sample("stat"))
    assert stat.cpus == 2
    assert stat.btime_s == 1795436926
    assert stat.procs_running is not None
    assert stat.busy_ticks > 0


def test_this_machine() -> None:
    before = cpustat.read_cpustat()
    assert before.cpus >= 1
    assert busy_fraction(before, before) is None


def test_an_old_kernel_has_fewer_columns() -> None:
    stat = cpustat.parse(b"cpu  1 2 3 4\ncpu0 1 2 3 4\n")
    assert stat == CpuStat(1, 2, 3, 4, 0, 0, 0, 0, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"cpu  1 2 3 4",
        b"cpu  1 2 3 4\n",
        b"cpu  1 2 3\ncpu0 1 2 3\n",
        b"cpu0 1 2 3 4\n",
        b"cpu  1 2 3 -4\ncpu0 1 2 3 4\n",
        b"cpu  1 2 3 99999999999999999999\ncpu0 1 2 3 4\n",
        b"cpu  1 2 3 4\ncpu0 1 2 3 4\nbtime now\n",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="/proc/stat"):
        cpustat.parse(data)


@settings(deadline=None)
@given(STATS, STATS, st.integers(-5, 1 << 60))
def test_a_fraction_is_a_fraction_or_nothing(before: CpuStat, after: CpuStat, own: int) -> None:
    fraction = busy_fraction(before, after, own)
    assert fraction is None or 0.0 <= fraction <= 1.0
    assert busy_fraction(before, before, own) is None


SMALL = st.integers(0, 10_000)


@settings(deadline=None)
@given(STATS, SMALL, SMALL, SMALL)
def test_own_work_is_not_the_guests(stat: CpuStat, work: int, own: int, idle: int) -> None:
    after = replace(
        stat,
        user_ticks=stat.user_ticks + work,
        system_ticks=stat.system_ticks + own,
        idle_ticks=stat.idle_ticks + idle,
    )
    total = work + own + idle
    if total:
        assert busy_fraction(stat, after, own) == work / total
        assert busy_fraction(stat, after) == (work + own) / total
    else:
        assert busy_fraction(stat, after, own) is None


BASE = CpuStat(100, 100, 100, 100, 100, 100, 100, 100, 2)


@pytest.mark.parametrize("column", ["user", "nice", "system", "irq", "softirq", "steal"])
def test_what_counts_as_busy(column: str) -> None:
    field = f"{column}_ticks"
    after = replace(BASE, **{field: 110}, idle_ticks=130)
    assert busy_fraction(BASE, after) == 0.25


def test_waiting_for_io_is_idle_and_may_go_backwards() -> None:
    assert busy_fraction(BASE, replace(BASE, iowait_ticks=110)) == 0.0
    assert busy_fraction(BASE, replace(BASE, iowait_ticks=90, idle_ticks=110)) == 0.0


@pytest.mark.parametrize("column", ["user", "idle"])
def test_counters_that_went_backwards_tell_nothing(column: str) -> None:
    after = replace(BASE, **{f"{column}_ticks": 1}, iowait_ticks=100_000)
    assert busy_fraction(BASE, after) is None
