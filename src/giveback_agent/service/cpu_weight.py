"""The service's share of the CPUs: what is left over, and while the host starves a fair one.

SCHED_IDLE ranks within a cgroup; between cgroups weights count, and the unit has the least. In a guest
whose CPUs are all taken by other cgroups a step would then get a hundredth of a CPU while the host
swaps that guest out. So for as long as that lasts the service's own cgroup has the weight of any
other. The weight it had is on record under /run meanwhile, so that a kill at any point is repaired by
the next start. A cgroup that holds anybody else's process is left alone: its share is not ours.

Source: Documentation/admin-guide/cgroup-v2.rst (cpu.weight: 1 to 10000, 100 unless set).
"""

from __future__ import annotations

import os

from giveback_agent.runtime import run_dir
from giveback_agent.runtime.worker import become_idle_class, become_normal_class
from giveback_kernel import cgroup, files
from giveback_kernel.errors import GivebackError, KernelFileError
from giveback_kernel.fields import number, text
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

STATE_PATH = run_dir.FOLDER + "/cpu-weight"
STATE_LIMIT_BYTES = 8192
# The kernel's default: that of a cgroup that nobody has ranked.
FAIR = 100
_WEIGHT_LIMIT = 10_001
_PROCS_LIMIT_BYTES = 4096


class Kept(Record):
    """A weight that was changed: of which file, and what it was."""

    weight: int
    path: str


class Share:
    """The share of this service. No method raises; `press` returns what went wrong, or ""."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._raised = False
        self.pressing = False

    def press(self, pressing: bool, pids: Collection[int]) -> str:
        """Take a fair share, or go back to what is left over. `pids` are the service's own processes."""
        if pressing != self.pressing:
            self.pressing = pressing
            become_normal_class() if pressing else become_idle_class()
            if pressing:
                return self._raise(pids)
        # Where that failed, it is tried at every look.
        return self.give_back() if self._raised and not pressing else ""

    def give_back(self) -> str:
        """Put the weight back."""
        try:
            restore(self._root)
        except KernelFileError as error:
            return f"{error}: the weight of the service's cgroup is not restored yet"
        self._raised = False
        return ""

    def _raise(self, pids: Collection[int]) -> str:
        # First: a failure between the writes must be put right, too.
        self._raised = True
        try:
            raise_weight(self._root, pids)
        except GivebackError as error:
            return f"{error}: no more than the unit's share of the CPUs"
        return ""


def raise_weight(root: str, pids: Collection[int]) -> bool:
    """Give this process's cgroup a fair weight; False where it has one, or is not its own alone.

    Raises KernelFileError where a file fails, AgentError where the weight cannot be kept: nothing is
    changed then.
    """
    restore(root)
    folder = _own_folder(root)
    if folder is None or not files.exists(root, f"{folder}/cpu.weight"):
        return False
    members = files.read(root, f"{folder}/cgroup.procs", _PROCS_LIMIT_BYTES).split()
    if any(number("cgroup.procs", "a process", pid) not in pids for pid in members):
        return False
    path = f"{folder}/cpu.weight"
    weight = _weight(root, path)
    if weight >= FAIR:
        return False
    run_dir.make_folder(root)
    if not run_dir.write_file(root, STATE_PATH, f"{weight} {path}\n"):
        kept = files.under(root, STATE_PATH)
        raise KernelFileError(kept, "cannot be written: a crash could not be repaired")
    files.write(root, path, f"{FAIR}\n")
    return True


def restore(root: str) -> int | None:
    """Put the weight on record back; returns it, or None where there was nothing to put back.

    A cgroup that is gone took its weight along, and one that another hand has set since is left
    alone. Raises KernelFileError; the record is kept then.
    """
    if not os.path.lexists(files.under(root, STATE_PATH)):
        return None
    kept = _kept(root)
    ours = kept is not None and files.exists(root, kept.path) and _weight(root, kept.path) == FAIR
    if kept is not None and ours:
        files.write(root, kept.path, f"{kept.weight}\n")
    run_dir.remove_file(root, STATE_PATH)
    return kept.weight if kept is not None and ours else None


def _weight(root: str, path: str) -> int:
    first = files.read(root, path, 64).partition(b"\n")[0]
    return number(path, "the weight", first.strip(), _WEIGHT_LIMIT)


def _own_folder(root: str) -> str | None:
    """The folder of this process's cgroup, but for the top one, which is everybody's."""
    mounts = cgroup.read_cgroup(root)
    if mounts.v2_mount is None or mounts.v2_root != "/":
        return None
    for line in files.read(root, "/proc/self/cgroup", STATE_LIMIT_BYTES).split(b"\n"):
        if line.startswith(b"0::/") and line != b"0::/":
            return mounts.v2_mount.rstrip("/") + text(line[3:])
    return None


def _kept(root: str) -> Kept | None:
    """What is on record; None where it is nonsense: nothing is written for that."""
    try:
        words = files.read(root, STATE_PATH, STATE_LIMIT_BYTES).rstrip(b"\n").split(b" ", 1)
        weight = number(STATE_PATH, "the weight", words[0], FAIR)
    except KernelFileError:
        return None
    path = text(words[1]) if len(words) > 1 else ""
    well_formed = weight > 0 and path.endswith("/cpu.weight") and "/../" not in path
    return Kept(weight, path) if well_formed and path.startswith("/") else None
