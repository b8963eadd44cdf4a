"""The benchmark's workloads: how many VMs, which steps, how long each is watched. Data only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from giveback.errors import InputError
from giveback_kernel.units import MIB
from giveback_lab.demo.demo import OVERHEAD_BYTES
from giveback_lab.images.image import Extras

Step = Literal["clean", "drop", "reread", "again", "report"]
Guest = Literal["small", "distribution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One workload. `job` is its name in the guest; it is followed by `steps`, each watched for `idle_s`.

    - `order`: with several VMs, "staggered" starts each `gap_s` after the end of the one before,
      "aligned" starts all at once.
    - `lingers`: the job keeps running after its workload.
    - `guest` is the kind it needs ("distribution" has systemd, podman and PostgreSQL).
    - `alone`: no other cell loads the host meanwhile.
    """

    name: str
    title: str
    job: str
    idle_s: float
    steps: tuple[Step, ...] = ()
    vms: int = 1
    order: Literal["aligned", "staggered"] = "aligned"
    gap_s: float = 60.0
    lingers: bool = False
    guest: Guest = "small"
    alone: bool = False
    needs_compiler: bool = False

    def ram_bytes(self, mem_bytes: int) -> int:
        """Return the RAM of each VM in bytes: three VMs of half the size exceed what their host has."""
        return mem_bytes if self.vms == 1 else mem_bytes // 2 // MIB * MIB

    def most_bytes(self, mem_bytes: int) -> int:
        """Return the bytes of host memory that all its VMs may take."""
        return self.vms * (self.ram_bytes(mem_bytes) + OVERHEAD_BYTES)

    @property
    def version(self) -> str:
        """The version of the host's part of it, for a result's versions."""
        return repr(self)


# The same disk for all workloads of a run: files on it that are not read do not matter.
EXTRAS = Extras(
    packages=("gcc", "make", "libc6-dev"),
    sources=("libzstd",),
    applets=(
        *("echo", "tar", "rm", "mkdir", "cp", "mv", "ln", "touch", "sed", "grep", "uname", "tr"),
        *("cut", "test", "find", "xargs", "sort", "head", "printf", "env", "install"),
        *("basename", "dirname", "expr"),
    ),
)  # fmt: skip
BUILD_IDLE_S = 100.0
# WSL's rule of 2026 waits for two idle minutes before it drops cache, so this allows it to.
FILES_IDLE_S = 240.0
SERVICE_IDLE_S = 300.0
_ALL = (
    Work(
        name="build", title="HyperAlloc's sequence: a compile, make clean, drop_caches",
        job="build", idle_s=BUILD_IDLE_S, steps=("clean", "drop"), needs_compiler=True,
    ),
    Work(
        name="files", title="an archive unpacked and read, half of it deleted",
        job="files", idle_s=FILES_IDLE_S, steps=("reread",),
    ),
    Work(
        name="hogs", title="peaks of anonymous memory, and a process that keeps pieces of one",
        job="hogs", idle_s=90.0,
    ),
    Work(
        name="database", title="SQLite with a hot eighth, asked again after an idle minute",
        job="database", idle_s=60.0, steps=("reread",),
    ),
    Work(
        name="editor", title="7 % of a CPU for ever, after a burst of files",
        job="editor", idle_s=180.0, steps=("reread",), lingers=True,
    ),
    Work(
        name="three-staggered", title="three VMs on one host, one after the other",
        job="day", idle_s=60.0, steps=("reread",), vms=3, order="staggered",
    ),
    Work(
        name="three-aligned", title="three VMs on one host, all at once",
        job="day", idle_s=90.0, steps=("reread",), vms=3,
    ),
    Work(
        name="containers", title="podman as root and rootless, a service and a session: built, and ended",
        job="containers", idle_s=60.0, steps=("again", "reread"), guest="distribution",
    ),
    *(
        Work(
            name=f"service-{busy}", title=f"a service at a steady {busy} % of its CPUs, for five minutes",
            job=f"service-{busy}", idle_s=SERVICE_IDLE_S, steps=("report", "reread"), lingers=True,
            guest="distribution", alone=True,
        )
        for busy in (30, 50, 70)
    ),
    Work(
        name="day", title="containers, a service and a PostgreSQL database, and then nothing",
        job="whole-day", idle_s=75.0, steps=("again", "reread"), guest="distribution",
    ),
)  # fmt: skip
GROUPS = "small and distribution (all workloads of that guest), or all"
WORKS = {work.name: work for work in _ALL}


def named(words: str) -> list[Work]:
    """Return the workloads of a comma list, in its order, each once; or of a guest, or "all".

    Raises InputError.
    """
    names = list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    if names == ["all"]:
        return list(_ALL)
    if names in (["small"], ["distribution"]):
        return [work for work in _ALL if work.guest == names[0]]
    unknown = [name for name in names if name not in WORKS]
    if unknown or not names:
        what = f"no workload {', '.join(map(repr, unknown))}" if unknown else "names no workload"
        raise InputError(f"--work {words}: {what}: there are {', '.join(WORKS)}, {GROUPS}")
    return [WORKS[name] for name in names]


def shortened(work: Work, idle_s: float) -> Work:
    """Return the same workload, watched for less time."""
    return replace(work, idle_s=min(work.idle_s, idle_s))
