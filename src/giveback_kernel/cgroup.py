"""Which cgroup version is mounted, and where.

Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from giveback_kernel import files, mounts
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import text
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.mounts import Mount

PATH = mounts.PATH
USUAL_MOUNT = "/sys/fs/cgroup"
CONTROLLERS_LIMIT = 64
_FS_TYPES = (b"cgroup",)


class CgroupMounts(Record):
    """Where cgroups are mounted.

    - `version` is v1, v2, hybrid (both) or none.
    - `v2_mount` is the path of the cgroup2 hierarchy, `v2_root` the cgroup visible there ('/' outside a
      container).
    - `v1_mounts` are pairs of controllers and path.
    - `is_part`: the top of `v2_mount` is an ordinary cgroup, and the kernel's other cgroups are not visible
      there (a cgroup namespace, as WSL's distributions have, or a container's bind mount).
    """

    version: str
    v2_mount: str | None = None
    v2_root: str | None = None
    v1_mounts: tuple[tuple[str, str], ...] = ()
    is_part: bool = False


def parse(data: bytes) -> CgroupMounts:
    """Parse the text of mountinfo. A line that is not a mount is skipped; the other lines count."""
    return choose(mounts.parse(data, _FS_TYPES))


def choose(table: tuple[Mount, ...]) -> CgroupMounts:
    """Choose among the visible mounts: one that another mount hides does not count.

    Among several cgroup2 mounts the whole hierarchy is preferred to a part, then the usual path.
    """
    seen = mounts.visible(table, ("cgroup2", "cgroup"))
    v2 = sorted(
        [mount for mount in seen if mount.fs_type == "cgroup2"],
        key=lambda mount: (_is_part(mount.root), mount.point != USUAL_MOUNT),
    )
    v1: list[tuple[str, str]] = []
    for mount in seen:
        if mount.fs_type == "cgroup" and len(v1) < CONTROLLERS_LIMIT:
            words = [word for word in mount.options.split(",") if word not in ("rw", "ro")]
            v1.append((",".join(words), _shown(mount.point)))
    version = ("hybrid" if v1 else "v2") if v2 else ("v1" if v1 else "none")
    if not v2:
        return CgroupMounts(version, v1_mounts=tuple(v1))
    return CgroupMounts(version, _shown(v2[0].point), _shown(v2[0].root), tuple(v1))


def read_cgroup(root: str = "/") -> CgroupMounts:
    """Read the mount table under `root`. Raises KernelFileError."""
    found = choose(mounts.read_mounts(root, _FS_TYPES))
    if found.v2_mount is None:
        return found
    # The kernel's own root has neither file (CFTYPE_NOT_ON_ROOT).
    top = found.v2_mount.rstrip("/")
    is_part = files.exists(root, f"{top}/cgroup.type") or files.exists(root, f"{top}/memory.max")
    return replace(found, is_part=is_part)


def find_v2_mount(root: str = "/") -> str | None:
    """Find the folder of the cgroup2 hierarchy, without a trailing slash; return None if there is none."""
    try:
        mount = read_cgroup(root).v2_mount
    except KernelFileError:
        return None
    return None if mount is None else mount.rstrip("/")


def v2_mount_or_usual(root: str = "/") -> str:
    """Return the result of `find_v2_mount`, else the usual path."""
    return find_v2_mount(root) or USUAL_MOUNT


def _is_part(mount_root: str) -> bool:
    """Tell whether a bind mount shows one cgroup's folder; '/..' is above a namespace's root."""
    return mount_root != "/" and not mount_root.startswith("/..")


def _shown(path: str) -> str:
    return text(path.encode("utf-8", "surrogateescape"))
