"""The service's share of the CPUs: what is left over, and while the host starves a fair one.

SCHED_IDLE ranks within a cgroup; between cgroups weights count, and the unit has the least. In a guest
whose CPUs are all taken by other cgroups a step would then get a hundredth of a CPU while the host
swaps that guest out. So for as long as that lasts the service's own cgroup has the weight of any
other. The weight it had is on record under /run meanwhile, so that a kill at any point is repaired by
the next start. A cgroup that holds anybody else's process is left alone: its share is not ours.

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
# The kernel's default: that of a cgroup that nobody has ranked.
FAIR = 100
_WEIGHT_LIMIT = 10_001
_PROCS_LIMIT_BYTES = 4096
_OWN_CGROUP_LIMIT_BYTES = 8192


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
    SAVED.save(root, Saved(weight, path))
    files.write(root, path, f"{FAIR}\n")
    return True


def restore(root: str) -> int | None:
    """Put the weight on record back; returns it, or None where there was nothing to put back.

    A cgroup that is gone took its weight along, and one that another hand has set since is left
    alone. Raises KernelFileError; the record is kept then.
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
    """The folder of this process's cgroup, but for the top one, which is everybody's."""
    mounts = cgroup.read_cgroup(root)
    if mounts.v2_mount is None or mounts.v2_root != "/":
        return None
    for line in files.read(root, "/proc/self/cgroup", _OWN_CGROUP_LIMIT_BYTES).split(b"\n"):
        if line.startswith(b"0::/") and line != b"0::/":
            return mounts.v2_mount.rstrip("/") + text(line[3:])
    return None


def _kept(root: str) -> Saved | None:
    """What is on record; None where it is nonsense: nothing is written for that."""
    try:
        saved = SAVED.load(root, FAIR)
    except KernelFileError:
        return None
    return saved if saved.value > 0 else None
