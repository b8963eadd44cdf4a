"""The facts that `doctor` judges, read once. A fact that cannot be read is None or an errno, never an error.

Nothing is changed: files are opened for writing and closed again. The only write is a request to reclaim
0 bytes, which the kernel parses and which has no effect.
"""

from __future__ import annotations

import errno
import os

from giveback_agent.doctor import other_reclaimers
from giveback_agent.install import service_state
from giveback_agent.release.cache import memory_high
from giveback_agent.runtime import run_dir
from giveback_agent.settings import load
from giveback_kernel import (
    cgroup,
    cgroup_namespace,
    compaction,
    files,
    hardening,
    kmsg,
    lru_gen,
    meminfo,
    page_reporting,
    pressure,
    reclaim,
    swaps,
    zoneinfo,
)
from giveback_kernel.buddyinfo import max_order, read_buddyinfo
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from giveback_agent.settings.load import Loaded
    from giveback_agent.wsl.detect import WslHost
    from giveback_agent.wsl.windows_view import ColdDiscard
    from giveback_kernel.cgroup import CgroupMounts
    from giveback_kernel.hardening import Hardening
    from giveback_kernel.meminfo import MemInfo
    from giveback_kernel.page_reporting import Balloon, ReportingState
    from giveback_kernel.swaps import Swaps

    _T = TypeVar("_T")

MANIFEST_PATH = "/usr/local/lib/giveback/manifest"
THP_PATH = "/sys/kernel/mm/transparent_hugepage"
DAMON_PATH = "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds"
NOTHING_TO_RECLAIM = "0 swappiness=0"
SYSCTLS = (
    "compact_unevictable_allowed",
    "compaction_proactiveness",
    "extfrag_threshold",
    "min_free_kbytes",
    "nr_hugepages",
    "watermark_scale_factor",
)


class Access(Record):
    """The result of opening a file: `errno` is 0 if it succeeded."""

    path: str
    errno: int

    @property
    def ok(self) -> bool:
        """Whether the file could be opened."""
        return self.errno == 0

    @property
    def absent(self) -> bool:
        """Whether the file does not exist."""
        return self.errno in (errno.ENOENT, errno.ENOTDIR)

    @property
    def denied(self) -> bool:
        """Whether the file exists, but this process may not open it."""
        return self.errno in (errno.EACCES, errno.EPERM)

    @property
    def reason(self) -> str:
        """The text of the errno."""
        return os.strerror(self.errno) if self.errno else ""


class MemoryFacts(Record):
    """Memory counters. `low_watermark_bytes`: below it kswapd runs. `below_low`: a relevant zone is below."""

    info: MemInfo
    low_watermark_bytes: int | None = None
    below_low: bool | None = None


class Thp(Record):
    """The settings of transparent huge pages; None if the kernel does not have them."""

    enabled: str | None = None
    khugepaged_defrag: int | None = None
    max_ptes_none: int | None = None


class Facts(Record):
    """The guest and this process's rights in it.

    `limited_cgroups`: the number of cgroups whose memory.high may be written, on a kernel without
    memory.reclaim.
    """

    is_root: bool
    release: str
    wsl: WslHost | None
    reporting: ReportingState
    balloons: tuple[Balloon, ...]
    has_reporting: bool
    order_access: Access
    largest_order: int | None
    pageblock_order: int | None
    hardening: Hardening
    psi: Access
    cgroup: CgroupMounts | None
    reclaim: Access | None
    node_reclaim: tuple[str, ...]
    limited_cgroups: int
    swappiness: Access | None
    compact: Access
    drop_caches: Access
    kmsg_write: Access
    kmsg_unread: str | None
    sysctls: dict[str, int]
    memory: MemoryFacts | None
    swaps: Swaps | None
    lru_gen: bool | None
    lru_gen_debug: Access
    damon: Access
    thp: Thp
    ticks_per_s: int
    agent_pid: int | None
    stale_pid: bool
    installed: bool
    loaded: Loaded
    other_reclaimers: tuple[str, ...]
    cold_discard: ColdDiscard | None
    cgroup_place: str | None = ""
    is_starting: bool = False


def gather(root: str, overrides: list[str]) -> Facts:
    """Read all facts under `root`. Raises UsageError for a bad override, and no other error."""
    wsl = load.detect_wsl(root)
    loaded = load.load(root, overrides, wsl)
    path = reclaim.root_reclaim_path(root)
    node_paths = reclaim.node_reclaim_paths(root)
    buddy = _or_none(lambda: read_buddyinfo(root))
    pid = run_dir.running_pid(root)
    return Facts(
        is_root=os.geteuid() == 0,
        release=_text(root, "/proc/sys/kernel/osrelease"),
        wsl=wsl,
        reporting=page_reporting.probe(root),
        balloons=page_reporting.read_balloons(root),
        has_reporting=files.exists(root, "/sys/module/page_reporting"),
        order_access=try_open(root, page_reporting.ORDER_PATH),
        largest_order=max_order(buddy) if buddy is not None else None,
        pageblock_order=_or_none(lambda: page_reporting.read_pageblock_order(root)),
        hardening=hardening.read_hardening(root),
        psi=try_read(root, pressure.path_of("memory")),
        cgroup=_or_none(lambda: cgroup.read_cgroup(root)),
        reclaim=try_open(root, path) if path else None,
        node_reclaim=node_paths,
        limited_cgroups=len(memory_high.cgroups(root)) if path is None else 0,
        swappiness=probe_swappiness(root, path or next(iter(node_paths), None)),
        compact=try_open(root, compaction.PATH),
        drop_caches=try_open(root, reclaim.DROP_CACHES_PATH),
        kmsg_write=try_open(root, kmsg.PATH),
        kmsg_unread=kmsg.search(root, ("\0",)).refused,
        sysctls=_sysctls(root),
        memory=_memory(root),
        swaps=_or_none(lambda: swaps.read_swaps(root)),
        lru_gen=_or_none(lambda: lru_gen.read_enabled(root)),
        lru_gen_debug=try_open(root, lru_gen.PATH),
        damon=try_open(root, DAMON_PATH),
        thp=_thp(root),
        ticks_per_s=os.sysconf("SC_CLK_TCK"),
        agent_pid=pid,
        stale_pid=pid is None and bool(_text(root, run_dir.PID_PATH)),
        installed=files.exists(root, MANIFEST_PATH),
        loaded=loaded,
        other_reclaimers=other_reclaimers.find(root, wsl),
        cold_discard=_cold_discard(root) if wsl is not None else None,
        cgroup_place=cgroup_namespace.place_here(root),
        is_starting=pid is None and service_state.read(root).state == service_state.STARTING,
    )


def try_open(root: str, path: str) -> Access:
    """Open a kernel file for writing and close it again, which changes nothing."""
    try:
        fd = os.open(files.under(root, path), os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return Access(path, error.errno or errno.EIO)
    os.close(fd)
    return Access(path, 0)


def try_read(root: str, path: str) -> Access:
    """Read a file and return only whether that succeeded: PSI that is off fails at the read."""
    try:
        files.read(root, path)
    except KernelFileError as error:
        return Access(path, error.errno or errno.EIO)
    return Access(path, 0)


def probe_swappiness(root: str, path: str | None) -> Access | None:
    """Write a request to reclaim 0 bytes with `swappiness=`; return None without a reclaim file.

    If the kernel knows `swappiness=`, it does not enter the reclaim loop and the write succeeds. If not,
    parsing fails with EINVAL. Source: memory_reclaim() in mm/memcontrol.c, later
    user_proactive_reclaim() in mm/vmscan.c; commit 68cd9050d871, Linux 6.11.
    """
    if path is None:
        return None
    try:
        files.write(root, path, NOTHING_TO_RECLAIM)
    except KernelFileError as error:
        return Access(path, error.errno or errno.EIO)
    return Access(path, 0)


def _memory(root: str) -> MemoryFacts | None:
    info = _or_none(lambda: meminfo.read_meminfo(root))
    if info is None:
        return None
    zones = _or_none(lambda: zoneinfo.read_zoneinfo(root))
    if zones is None:
        return MemoryFacts(info)
    low_pages = sum(zone.low_pages for zone in zones.zones)
    low_bytes = low_pages * os.sysconf("SC_PAGE_SIZE")
    return MemoryFacts(info, low_bytes, zoneinfo.below_low_watermark(zones))


def _thp(root: str) -> Thp:
    chosen = _text(root, f"{THP_PATH}/enabled").partition("[")[2].partition("]")[0]
    return Thp(
        chosen or None,
        _number(root, f"{THP_PATH}/khugepaged/defrag"),
        _number(root, f"{THP_PATH}/khugepaged/max_ptes_none"),
    )


def _sysctls(root: str) -> dict[str, int]:
    values = {}
    for name in SYSCTLS:
        value = _number(root, f"/proc/sys/vm/{name}")
        if value is not None:
            values[name] = value
    return values


def _cold_discard(root: str) -> ColdDiscard:
    from giveback_agent.wsl.windows_view import cold_discard

    return cold_discard(root)


def _number(root: str, path: str) -> int | None:
    text = _text(root, path)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _text(root: str, path: str) -> str:
    try:
        return files.read(root, path, 4096).decode("utf-8", "replace").strip()
    except KernelFileError:
        return ""


def _or_none(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except KernelFileError:
        return None
