"""The CPU weight of the service's cgroup: the lowest, and the default one while the urgency is 3.

SCHED_IDLE has an effect only within a cgroup. Between cgroups cpu.weight decides, and the unit has the lowest
one. In a guest whose other cgroups use all CPUs, a step would get 1/100 of a CPU while the host swaps out
that guest. So during urgency 3 the service's cgroup has the default weight. Its own weight is on record under
/run meanwhile, so that the next start repairs it after a kill at any point. A cgroup with a process that is
not the service's is left alone.

Source: Documentation/admin-guide/cgroup-v2.rst (cpu.weight: 1 to 10000, 100 unless set).
"""

from __future__ import annotations

from giveback_agent.runtime.saved_value import Saved, SavedValue
from giveback_agent.runtime.worker import become_idle_class, become_normal_class
from giveback_kernel import cgroup, files
from giveback_kernel.errors import GivebackError, KernelFileError
from giveback_kernel.fields import number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

SAVED = SavedValue("cpu-weight", "the weight", file_name="cpu.weight", record_limit_bytes=8192)
STATE_PATH = SAVED.record_path
# The kernel's default weight.
FAIR = 100
_WEIGHT_LIMIT = 10_001
_PROCS_LIMIT_BYTES = 4096
_OWN_CGROUP_LIMIT_BYTES = 8192


class CpuWeight:
    """The CPU weight of this service. No method raises; they return what went wrong, or ""."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._raised = False
        self.pressing = False

    def press(self, pressing: bool, pids: Collection[int]) -> str:
        """Set the default weight if `pressing`, else the unit's own. `pids`: the service's own processes."""
        if pressing != self.pressing:
            self.pressing = pressing
            become_normal_class() if pressing else become_idle_class()
            if pressing:
                return self._raise(pids)
        # If restoring failed, every tick tries again.
        return self.give_back() if self._raised and not pressing else ""

    def give_back(self) -> str:
        """Restore the weight."""
        try:
            restore(self._root)
        except KernelFileError as error:
            return f"{error}: the weight of the service's cgroup is not restored yet"
        self._raised = False
        return ""

    def _raise(self, pids: Collection[int]) -> str:
        # Set first: a failure between the writes must be repaired as well.
        self._raised = True
        try:
            raise_weight(self._root, pids)
        except GivebackError as error:
            return f"{error}: the service keeps its low CPU weight"
        return ""


def raise_weight(root: str, pids: Collection[int]) -> bool:
    """Set the default weight for this process's cgroup; return whether it was changed.

    It is not changed if it is high enough, or if the cgroup holds a process that is not in `pids`. Raises
    KernelFileError if a file fails. Raises AgentError, and changes nothing, if the weight cannot be
    recorded.
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
    SAVED.save(root, Saved(weight, path))
    files.write(root, path, f"{FAIR}\n")
    return True


def restore(root: str) -> int | None:
    """Restore the weight on record; return it, or None if there was nothing to restore.

    Nothing is restored if the cgroup has vanished, or if another process has set its weight since.
    Raises KernelFileError; the record is then kept.
    """
    done = SAVED.restore(
        root,
        lambda: _kept(root),
        lambda saved: files.exists(root, saved.path) and _weight(root, saved.path) == FAIR,
        lambda saved: files.write(root, saved.path, f"{saved.value}\n"),
    )
    return None if done.saved is None else done.saved.value


def _weight(root: str, path: str) -> int:
    first = files.read(root, path, 64).partition(b"\n")[0]
    return number(path, "the weight", first.strip(), _WEIGHT_LIMIT)


def _own_folder(root: str) -> str | None:
    """Return the folder of this process's cgroup; None for the root, which other processes share."""
    mounts = cgroup.read_cgroup(root)
    if mounts.v2_mount is None or mounts.v2_root != "/":
        return None
    for line in files.read(root, "/proc/self/cgroup", _OWN_CGROUP_LIMIT_BYTES).split(b"\n"):
        if line.startswith(b"0::/") and line != b"0::/":
            return mounts.v2_mount.rstrip("/") + text(line[3:])
    return None


def _kept(root: str) -> Saved | None:
    """Return the recorded weight; None if the record is invalid, so that nothing is written for it."""
    try:
        saved = SAVED.load(root, FAIR)
    except KernelFileError:
        return None
    return saved if saved.value > 0 else None
