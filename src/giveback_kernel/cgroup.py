"""/proc/self/mountinfo: which cgroup version is mounted, and where.

Source: Documentation/filesystems/proc.rst (mountinfo) and Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.fields import text, unescaped
from giveback_kernel.record import Record

PATH = "/proc/self/mountinfo"
READ_LIMIT_BYTES = 8 << 20
CONTROLLERS_LIMIT = 64


class CgroupMounts(Record):
    """Where cgroups are mounted.

    `version` is v1, v2, hybrid (both) or none. `v2_mount` is the path of the cgroup2 hierarchy and
    `v2_root` the cgroup that is seen there ('/' outside a container). `v1_mounts` are pairs of
    controllers and path.
    """

    version: str
    v2_mount: str | None = None
    v2_root: str | None = None
    v1_mounts: tuple[tuple[str, str], ...] = ()


def parse(data: bytes) -> CgroupMounts:
    """Parse the text of mountinfo. A line that is not a mount is skipped: the rest still counts."""
    v2: tuple[str, str] | None = None
    v1: list[tuple[str, str]] = []
    for line in data.split(b"\n")[:-1]:
        if b" - cgroup" not in line:
            continue
        head, _, tail = line.partition(b" - ")
        place = head.split()
        kind = tail.split()
        if len(place) < 5 or len(kind) < 3:
            continue
        mount = text(unescaped(place[4]))
        if "\0" in mount:
            continue
        if kind[0] == b"cgroup2" and v2 is None:
            v2 = (mount, text(unescaped(place[3])))
        elif kind[0] == b"cgroup" and len(v1) < CONTROLLERS_LIMIT:
            options = [word for word in kind[2].split(b",") if word not in (b"rw", b"ro")]
            v1.append((text(b",".join(options)), mount))
    version = ("hybrid" if v1 else "v2") if v2 else ("v1" if v1 else "none")
    return CgroupMounts(version, v2 and v2[0], v2 and v2[1], tuple(v1))


def read_cgroup(root: str = "/") -> CgroupMounts:
    """Read /proc/self/mountinfo under `root`. Raises KernelFileError."""
    return parse(files.read(root, PATH, READ_LIMIT_BYTES))
