"""What one run of the benchmark is, and all that was measured of it: data only.

A cell is one strategy on one work in one round. Times are seconds since the cell's work began; what
came before (the boot) is negative. All amounts are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
"""Of a stored result: one of another schema is measured again."""
MarkName = Literal["work", "idle", "clean", "cleaned", "drop", "dropped", "reread", "event"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured: `kernel` is a series such as "6.12"; rounds count from 1."""

    kernel: str
    mem_bytes: int
    work: str
    strategy: str
    round: int

    @property
    def key(self) -> str:
        """Names the cell, and its file."""
        return f"{self.kernel}-{self.mem_bytes >> 20}M-{self.work}-{self.strategy}-r{self.round}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one VM, each second. `vmm_…_s` is the VMM's CPU time since its start."""

    t_s: float
    resident_bytes: int
    vmm_user_s: float
    vmm_system_s: float
    non_free_bytes: int | None = None
    """The VM's RAM less MemFree (so with what the kernel reserved); None: the guest was silent."""
    cache_bytes: int | None = None

    @property
    def residue_bytes(self) -> int | None:
        """What the host holds for nothing; slightly negative when both were not read at once."""
        return None if self.non_free_bytes is None else self.resident_bytes - self.non_free_bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """A named span of a VM's course. "idle": from the work's end to the next thing asked of it."""

    name: MarkName
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Counters:
    """The guest's own counters at one moment. None: this kernel does not count it."""

    refault_file_pages: int | None = None
    refault_anon_pages: int | None = None
    swap_in_pages: int | None = None
    swap_out_pages: int | None = None
    allocation_stalls: int | None = None
    order9_failures: int | None = None
    """thp_fault_fallback: huge pages that could not be had."""
    compact_stalls: int | None = None
    read_bytes: int | None = None
    psi_some_us: Mapping[str, int] = field(default_factory=dict)
    """Total stall time by resource: cpu, memory, io."""
    psi_full_us: Mapping[str, int] = field(default_factory=dict)
    agent_cpu_s: float | None = None
    """CPU of the strategy's own processes in the guest (user and system)."""
    agent_memory_bytes: int | None = None
    """Pss of the same processes."""
    oom_kills: int | None = None


@dataclass(frozen=True, slots=True)
class VmCourse:
    """One VM through one cell. Samples and marks are in order of time.

    `needed_bytes` is what it truly needs once the work is over: reserved, not reclaimable, hot set.
    `work_s` is measured in the guest by the work itself; so is `reread_s` (None: no hot set).
    """

    name: str
    ram_bytes: int
    samples: tuple[Sample, ...]
    marks: tuple[Mark, ...]
    work_s: float
    reread_s: float | None
    reread_disk_bytes: int | None
    needed_bytes: int | None
    before: Counters
    after_work: Counters
    after: Counters


@dataclass(frozen=True, slots=True)
class CellResult:
    """A finished cell. `versions` names everything that took part; `problems` what went wrong.

    `host_busy_share` is the share of the host's CPUs that others than our VMs used meanwhile. `sitting`
    is the same in all cells of one run of the command, and empty where that is not known.
    """

    cell: Cell
    vms: tuple[VmCourse, ...]
    versions: Mapping[str, str]
    started_at: str
    took_s: float
    host_busy_share: float
    problems: tuple[str, ...] = ()
    schema: int = SCHEMA
    sitting: str = ""
