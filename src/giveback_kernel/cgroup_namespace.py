"""Find where this process's cgroup hierarchy is in the kernel's, and where this process is in it.

In a cgroup namespace /sys/fs/cgroup is an ordinary cgroup, such as /wsl-user/distro-27 (WSL since
2.9.13: microsoft/WSL#41512), and no file there names it. debugfs has no namespaces: lru_gen lists
every cgroup from the kernel's own root. So the place is found by comparison: lru_gen lists each of
our cgroups below one common path, with as many file pages as its memory.stat has. The numbers in
lru_gen are not the folders' inodes (mem_cgroup_id() in mm/memcontrol.c), and no file of a cgroup
has them.

Source: Documentation/admin-guide/cgroup-v2.rst (Namespace), man 7 cgroup_namespaces.
"""

from __future__ import annotations

import os

from giveback_kernel import cgroup, files, lru_gen_scan, memcg
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import text
from giveback_kernel.lru_gen import raw_lists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from giveback_kernel.cgroup import CgroupMounts

OWN_PATH = "/proc/self/cgroup"
# The number of cgroups, the largest ones, whose pages are compared.
ANCHORS = 16
# With less cache than this in all of them together, two places could look alike.
LEAST_BYTES = 1 << 20
# Pages come and go between the two readings: this fraction of them may differ,
MOST_DIFFERENCE = 0.2
# and the next best place must differ by this factor more.
TIMES_BETTER = 3
CANDIDATES_LIMIT = 256
_OWN_LIMIT_BYTES = 8192
_FOLDERS_LIMIT = 4096


def own_path(root: str, mounts: CgroupMounts) -> str | None:
    """Return this process's cgroup as a path below `mounts.v2_mount` ('/': its top); None if it is outside.

    If the mount shows more than the namespace (its root is '/..'), the folder is searched for.
    """
    told = _told_path(root)
    if told is None or mounts.v2_mount is None or ".." in told.split("/"):
        return None
    shown = mounts.v2_root or "/"
    if shown == "/..":
        levels = 1
    elif shown.startswith("/../") and not shown.strip("/.").strip():
        levels = shown.count("..")
    else:
        return lru_gen_scan.below(told, "" if shown == "/" else shown)
    return _searched(root, mounts.v2_mount.rstrip("/"), levels, "" if told == "/" else told)


def read_place(root: str, mounts: CgroupMounts) -> str | None:
    """Find the path of the top of `mounts.v2_mount` from the kernel's own root; "" if it is that root.

    Returns None if the place cannot be determined. Reads lru_gen. Never raises.
    """
    if not mounts.is_part:
        return ""
    if mounts.v2_mount is None:
        return None
    try:
        ours = _largest(root, mounts.v2_mount.rstrip("/"))
        return place_of(lru_gen_scan.pieces(root), ours) if ours else None
    except KernelFileError:
        return None


def place_here(root: str = "/") -> str | None:
    """Find the path of this process's top cgroup, as `read_place` does. Never raises.

    None means: it is unknown which cgroups of lru_gen are ours, so none may be changed through it.
    """
    try:
        return read_place(root, cgroup.read_cgroup(root))
    except KernelFileError:
        # No cgroups: the only list is everyone's.
        return ""


def place_of(read: Iterable[bytes], ours: Mapping[str, int]) -> str | None:
    """Find the path below which lru_gen lists `ours`: paths ('/a/b') and file pages of leaf cgroups.

    Returns None if no path fits, or if another fits nearly as well. Raises KernelFileError for
    invalid text.
    """
    listed: dict[str, dict[str, int]] = {}
    by_name: dict[str, list[str]] = {}
    for path in ours:
        by_name.setdefault(path.rpartition("/")[2], []).append(path)
    for _, printed, _, _, pages in raw_lists(read):
        for path in by_name.get(printed.rpartition("/")[2], ()):
            if not printed.endswith(path):
                continue
            place = printed[: -len(path)]
            if place in listed or len(listed) < CANDIDATES_LIMIT:
                found = listed.setdefault(place, {})
                found[path] = found.get(path, 0) + pages
    total = max(1, sum(ours.values()))
    ranked = sorted(
        (sum([abs(ours[path] - found.get(path, 0)) for path in ours]) / total, place)
        for place, found in listed.items()
    )
    if not ranked or ranked[0][0] > MOST_DIFFERENCE:
        return None
    if len(ranked) > 1 and ranked[1][0] < max(MOST_DIFFERENCE, TIMES_BETTER * ranked[0][0]):
        return None
    return ranked[0][1]


def _largest(root: str, mount: str) -> dict[str, int]:
    """Return the leaf cgroups with the most file pages; empty if they have too few for a comparison."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    folders = [folder for folder in memcg.leaves(root, mount) if folder != mount]
    sizes = [(memcg.file_bytes_of(root, folder), folder[len(mount) :]) for folder in folders]
    largest = sorted(sizes, reverse=True)[:ANCHORS]
    if sum([size for size, _ in largest]) < LEAST_BYTES:
        return {}
    return {path: size // page_bytes for size, path in largest if size}


def _told_path(root: str) -> str | None:
    try:
        lines = files.read(root, OWN_PATH, _OWN_LIMIT_BYTES).split(b"\n")
    except KernelFileError:
        return None
    for line in lines:
        if line.startswith(b"0::/"):
            return text(line[3:])
    return None


def _searched(root: str, mount: str, levels: int, told: str) -> str | None:
    """Find the folder `levels` below the mount, and `told` below that, that holds this process."""
    folders = [mount]
    for _ in range(levels):
        folders = [child for folder in folders for child in memcg.children(root, folder)]
        if len(folders) > _FOLDERS_LIMIT:
            return None
    own = str(os.getpid()).encode()
    for folder in folders:
        try:
            members = files.read(root, f"{folder}{told}/cgroup.procs").split()
        except KernelFileError:
            continue
        if own in members:
            return folder[len(mount) :] + told
    return None
