"""/proc/stat, and which of its times count as busy."""

from __future__ import annotations

import pytest
from agent_kernel_samples import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import cpustat
from giveback_kernel.cpustat import CpuStat
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import replace

TICKS = st.integers(0, 1 << 60)
STATS = st.builds(CpuStat, *[TICKS] * 8, st.integers(1, 64))


def written(stat: CpuStat) -> bytes:
    columns = " ".join(str(getattr(stat, name)) for name in cpustat._COLUMNS)
    text = f"cpu  {columns} 0 0\n"
    text += "".join(f"cpu{cpu} {columns} 0 0\n" for cpu in range(stat.cpus))
    text += "intr 97520 0 0 25 1\nctxt 197761\nbtime 1795436926\nprocesses 4124\n"
    return (text + "procs_running 3\nprocs_blocked 0\n").encode()


@settings(deadline=None)
@given(STATS)
def test_what_is_written_is_read_back(stat: CpuStat) -> None:
    assert cpustat.parse(written(stat)) == stat


def test_a_real_file() -> None:
    stat = cpustat.parse(sample("stat"))
    assert stat.cpus == 2
    assert stat.busy_ticks > 0


def test_this_machine() -> None:
    assert cpustat.read_cpustat().cpus >= 1


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
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="/proc/stat"):
        cpustat.parse(data)


BASE = CpuStat(100, 100, 100, 100, 100, 100, 100, 100, 2)


@pytest.mark.parametrize("column", ["user", "nice", "system", "irq", "softirq", "steal"])
def test_what_counts_as_busy(column: str) -> None:
    field = f"{column}_ticks"
    after = replace(BASE, **{field: 110}, idle_ticks=130)
    assert after.busy_ticks - BASE.busy_ticks == 10


def test_waiting_for_io_is_idle() -> None:
    assert replace(BASE, iowait_ticks=110).busy_ticks == BASE.busy_ticks
