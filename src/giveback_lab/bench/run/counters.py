"""The guest's own counters: read by one small script there, parsed into `Counters` here."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from giveback.errors import VmError
from giveback.host import smaps
from giveback_kernel import pressure, vmstat
from giveback_kernel.errors import KernelFileError
from giveback_lab.bench.model import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from giveback_lab.vms.vm import LabVm

T = TypeVar("T")
RESOURCES = ("cpu", "memory", "io")
HEAD = "==> "
DEADLINE_S = 60.0
# USER_HZ: the unit of /proc/PID/stat for programs, 100 on x86 (Documentation/filesystems/proc.rst).
TICKS_PER_S = 100


def files_of(pids: Iterable[int]) -> list[str]:
    """Return the files that hold the counters; `pids` are the strategy's own processes."""
    system = ["/proc/vmstat", *(pressure.path_of(resource) for resource in RESOURCES)]
    return [*system, *(f"/proc/{pid}/{name}" for pid in pids for name in ("stat", "smaps_rollup"))]


def script_of(paths: Iterable[str]) -> str:
    """Return a shell script that prints each file under its name; a missing file is empty."""
    return "; ".join(f"echo '{HEAD}{path}'; cat {path} 2>/dev/null" for path in paths)


async def read_counters(vm: LabVm, pids: Sequence[int]) -> Counters:
    """Read the guest's counters now. Raises VmError if it does not answer."""
    script = script_of(files_of(pids))
    said = await vm.watch(vm.guest.exec("sh", "-c", script), DEADLINE_S, "its counters")
    try:
        return parse(said.text)
    except KernelFileError as error:
        raise VmError(f"{vm.spec.name}: {error}") from error


def sections(text: str) -> dict[str, str]:
    """Split the script's output by file."""
    found: dict[str, str] = {}
    path = ""
    for line in text.splitlines():
        if line.startswith(HEAD):
            path = line.removeprefix(HEAD)
            found[path] = ""
        elif path:
            found[path] += line + "\n"
    return found


def parse(text: str) -> Counters:
    """Parse the output of `script_of(files_of(…))`.

    Raises KernelFileError if /proc/vmstat is missing or invalid; any other missing or invalid value
    is None.
    """
    files = sections(text)
    stat = vmstat.parse(files.get("/proc/vmstat", "").encode("ascii", "replace"))
    stalls = {
        resource: stall
        for resource in RESOURCES
        if (stall := _tried(_pressure, files.get(pressure.path_of(resource), "")))
    }
    cpus = [s for path, body in files.items() if path.endswith("/stat") and (s := _cpu(body))]
    rollups = [body for path, body in files.items() if path.endswith("_rollup")]
    # A kernel thread has no memory of its own.
    sizes = [s for body in rollups if (s := smaps.total(body.encode("ascii", "replace")).pss_bytes)]
    return Counters(
        refault_file_pages=stat.workingset_refault_file,
        refault_anon_pages=stat.workingset_refault_anon,
        swap_in_pages=stat.pswpin,
        swap_out_pages=stat.pswpout,
        allocation_stalls=stat.allocstall,
        order9_failures=stat.thp_fault_fallback,
        compact_stalls=stat.compact_stall,
        read_bytes=None if stat.pgpgin is None else stat.pgpgin * 1024,
        psi_some_us={name: stall.some.total_us for name, stall in stalls.items()},
        psi_full_us={name: s.full.total_us for name, s in stalls.items() if s.full is not None},
        agent_cpu_s=sum(cpus) if cpus else None,
        agent_memory_bytes=sum(sizes) if sizes else None,
        oom_kills=stat.oom_kill,
    )


def _tried(parse_it: Callable[[str], T], text: str) -> T | None:
    try:
        return parse_it(text)
    except KernelFileError:
        return None


def _pressure(text: str) -> pressure.Pressure:
    return pressure.parse(text.encode("ascii", "replace"))


def _cpu(text: str) -> float | None:
    """Return user and system seconds of a process and of its ended children."""
    words = text.rpartition(")")[2].split()[11:15]
    if len(words) < 4 or not all(word.lstrip("-").isdecimal() for word in words):
        return None
    return sum(int(word) for word in words) / TICKS_PER_S
