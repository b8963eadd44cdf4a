"""One run of the benchmark and all its measurements: data only.

A cell is one strategy on one workload in one round. Times are seconds since the cell's workload
began; earlier times (the boot) are negative. All amounts are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # pydantic reads the annotations when it runs
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict, with_config

from giveback_lab.report.decode import Bytes, Number, Seconds, WholeNumber  # noqa: TC001

_KNOWN_KEYS_ALONE = with_config(ConfigDict(extra="forbid"))
SCHEMA = 1
"""The schema of a stored result: one of another schema is measured again."""
MarkName = Literal[
    "work", "idle", "clean", "cleaned", "drop", "dropped", "reread", "again", "report", "event"
]


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement to make: `kernel` is a series such as "6.12"; rounds count from 1."""

    kernel: str
    mem_bytes: Bytes
    work: str
    strategy: str
    round: WholeNumber

    @property
    def key(self) -> str:
        """The name of the cell and of its file."""
        return f"{self.kernel}-{self.mem_bytes >> 20}M-{self.work}-{self.strategy}-r{self.round}"


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class CellSample:
    """One sample of one VM, each second. `vmm_…_s` is the VMM's CPU time since its start."""

    t_s: Seconds
    resident_bytes: Bytes
    vmm_user_s: Seconds
    vmm_system_s: Seconds
    non_free_bytes: Bytes | None = None
    """The VM's RAM less MemFree (including what the kernel reserved); None: the guest sent nothing."""
    cache_bytes: Bytes | None = None

    @property
    def residue_bytes(self) -> int | None:
        """Free in the guest, still held by the host; slightly negative if both were not read at once."""
        return None if self.non_free_bytes is None else self.resident_bytes - self.non_free_bytes


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class MemoryFlow:
    """Guest RAM that the host has provided and got back since the first scan, as sums.

    - `faulted_bytes`: each page of it is one page fault on the host.
    - `returned_bytes` went back to the host.
    - `regret_bytes`: faulted bytes that the guest had returned less than a minute before.
    """

    t_s: Seconds
    faulted_bytes: Bytes
    returned_bytes: Bytes
    regret_bytes: Bytes


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """The figures of a service that keeps running after the workload: its requests and their latencies."""

    requests: WholeNumber
    span_s: Seconds
    p50_s: Seconds
    p99_s: Seconds


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class CellMark:
    """A named span of a VM's course. "idle" is from the workload's end to the next request to it."""

    name: MarkName
    begin_s: Seconds
    end_s: Seconds


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class Counters:
    """The guest's own counters at one moment. None: this kernel does not count it."""

    refault_file_pages: WholeNumber | None = None
    refault_anon_pages: WholeNumber | None = None
    swap_in_pages: WholeNumber | None = None
    swap_out_pages: WholeNumber | None = None
    allocation_stalls: WholeNumber | None = None
    order9_failures: WholeNumber | None = None
    """thp_fault_fallback: huge pages that could not be allocated."""
    compact_stalls: WholeNumber | None = None
    read_bytes: Bytes | None = None
    psi_some_us: Mapping[str, WholeNumber] = field(default_factory=dict)
    """Total stall time by resource, in microseconds: cpu, memory, io."""
    psi_full_us: Mapping[str, WholeNumber] = field(default_factory=dict)
    agent_cpu_s: Seconds | None = None
    """CPU time of the strategy's own processes in the guest (user and system)."""
    agent_memory_bytes: Bytes | None = None
    """Pss of the same processes."""
    oom_kills: WholeNumber | None = None


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class VmCourse:
    """One VM through one cell. Samples and marks are in order of time.

    `needed_bytes` is what it needs after the workload: reserved, not reclaimable, hot set. `work_s`
    and `reread_s` (None: no hot set) are measured in the guest by the workload itself.
    """

    name: str
    ram_bytes: Bytes
    samples: tuple[CellSample, ...]
    marks: tuple[CellMark, ...]
    work_s: Seconds
    reread_s: Seconds | None
    reread_disk_bytes: Bytes | None
    needed_bytes: Bytes | None
    before: Counters
    after_work: Counters
    after: Counters
    flows: tuple[MemoryFlow, ...] = ()
    again_s: Seconds | None = None
    """How long the second start of the ended processes took; None: the workload has no such step."""
    service: ServiceFigures | None = None


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class CellResult:
    """A finished cell. `versions` names everything that took part; `problems` lists failures.

    `host_busy_share` is the fraction of the host's CPUs that other processes than the lab's VMs
    used. `sitting` is the same in all cells of one run of the command, and empty if it is unknown.
    """

    cell: Cell
    vms: tuple[VmCourse, ...]
    versions: Mapping[str, str]
    started_at: str
    took_s: Seconds
    host_busy_share: Number
    problems: tuple[str, ...] = ()
    schema: WholeNumber = SCHEMA
    sitting: str = ""
