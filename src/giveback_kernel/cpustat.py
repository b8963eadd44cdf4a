"""/proc/stat: the time all CPUs together spent in each state, in clock ticks.

Source: show_stat() in fs/proc/stat.c and Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number, quoted
from giveback_kernel.record import Record

PATH = "/proc/stat"
# Two columns of interrupt counts per device queue make this the longest file of a large machine.
READ_LIMIT_BYTES = 4 << 20
_COLUMNS = (
    "user_ticks",
    "nice_ticks",
    "system_ticks",
    "idle_ticks",
    "iowait_ticks",
    "irq_ticks",
    "softirq_ticks",
    "steal_ticks",
)


class CpuStat(Record):
    """Ticks (os.sysconf('SC_CLK_TCK') per second) summed over all CPUs since boot.

    `user_ticks` and `nice_ticks` already contain the time spent running guests of this machine.
    """

    user_ticks: int
    nice_ticks: int
    system_ticks: int
    idle_ticks: int
    iowait_ticks: int
    irq_ticks: int
    softirq_ticks: int
    steal_ticks: int
    cpus: int

    @property
    def busy_ticks(self) -> int:
        """Ticks in which a CPU was not idle; waiting for I/O counts as idle."""
        return (
            self.user_ticks
            + self.nice_ticks
            + self.system_ticks
            + self.irq_ticks
            + self.softirq_ticks
            + self.steal_ticks
        )


def parse(data: bytes) -> CpuStat:
    """Parse the text of /proc/stat. Columns that an old kernel does not print are 0.

    Raises KernelFileError if the line `cpu`, or every line `cpuN`, is missing, or if a value is
    invalid.
    """
    end = data.find(b"\n")
    words = data[: max(0, end)].split()
    if len(words) < 5 or words[0] != b"cpu":
        raise KernelFileError(PATH, f"does not start with a line 'cpu': {quoted(data)}")
    ticks: dict[str, int] = {}
    for column, field in enumerate(_COLUMNS, 1):
        ticks[field] = number(PATH, field, words[column]) if column < len(words) else 0
    cpus = data.count(b"\ncpu")
    if cpus == 0:
        raise KernelFileError(PATH, "lists no CPU")
    return CpuStat(**ticks, cpus=cpus)


def read_cpustat(root: str = "/") -> CpuStat:
    """Read /proc/stat under `root`. Raises KernelFileError."""
    return parse(files.read(root, PATH, READ_LIMIT_BYTES))
