"""The mount table: what is mounted, and which mount is visible at a path.

A line of the table means that something is mounted, not that it is visible. A later mount on the
same path, or on a folder above it, hides it (systemd on WSL: microsoft/WSL#6662). Each line of
mountinfo names the mount that it lies on, so a path can be resolved as the kernel does it. The
order of lines is not reliable: before Linux 6.8 they are listed along the tree, and numbers are
reused. The order decides only if there are no numbers.

Source: Documentation/filesystems/proc.rst (mountinfo), show_mountinfo() in fs/proc_namespace.c,
lookup_mnt() in fs/namespace.c.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import unescaped
from giveback_kernel.record import Record

PATH = "/proc/self/mountinfo"
# The same without numbers, for a tree that has only this file.
TABLE_PATHS = ("/proc/self/mounts", "/proc/mounts")
READ_LIMIT_BYTES = 8 << 20
_UNKNOWN = -1


class Mount(Record):
    """One mount.

    `root` is the folder of the file system that is visible at `point`. Bytes outside UTF-8 are
    surrogates, as `os` takes them. `options` are the file system's; in /proc/mounts they include
    the mount's. `mount_id` is -1 if the table has no numbers.
    """

    point: str
    fs_type: str
    source: str
    options: str
    root: str = "/"
    mount_id: int = _UNKNOWN
    parent_id: int = _UNKNOWN


def parse(data: bytes, fs_types: tuple[bytes, ...] = ()) -> tuple[Mount, ...]:
    """Parse the text of mountinfo. A line that is not a mount is skipped; the other lines count.

    `fs_types` limits the result to mounts whose types begin so, and to those on the way to them. A
    host of containers has thousands of others.
    """
    found = []
    lines = data.split(b"\n")[:-1]
    for line in _on_the_way(lines, fs_types) if fs_types else lines:
        head, _, tail = line.partition(b" - ")
        place, kind = head.split(), tail.split()
        if len(place) < 6 or len(kind) < 3 or b"\\000" in place[4]:
            continue
        words = (place[4], kind[0], kind[1], kind[2], place[3])
        point, fs_type, source, options, root = [_text(word) for word in words]
        numbers = (_number(place[0]), _number(place[1]))
        found.append(Mount(point, fs_type, source, options, root, *numbers))
    return tuple(found)


def parse_table(data: bytes) -> tuple[Mount, ...]:
    """Parse the text of /proc/mounts: the same without numbers, and without the root."""
    found = []
    for line in data.splitlines():
        words = line.split(b" ")
        if len(words) >= 4 and words[1][:1] == b"/" and b"\\000" not in words[1]:
            source, point, fs_type, options = [_text(word) for word in words[:4]]
            found.append(Mount(point, fs_type, source, options))
    return tuple(found)


def read_mounts(root: str = "/", fs_types: tuple[bytes, ...] = ()) -> tuple[Mount, ...]:
    """Read this process's mount table under `root`, as `parse` does. Raises KernelFileError."""
    try:
        return parse(files.read(root, PATH, READ_LIMIT_BYTES), fs_types)
    except KernelFileError:
        for path in TABLE_PATHS:
            data = files.read_if_permitted(root, path, READ_LIMIT_BYTES)
            if data is not None:
                return parse_table(data)
        raise


def covering(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """Return the mount that is visible at the absolute path `path`; None if the table has none."""
    return _Tree(mounts).covering(path)


def visible(mounts: tuple[Mount, ...], fs_types: tuple[str, ...]) -> tuple[Mount, ...]:
    """Return the mounts of these types that are visible at their own mount point, in the table's order."""
    tree = _Tree(mounts)
    return tuple([m for m in mounts if m.fs_type in fs_types and tree.covering(m.point) is m])


class _Tree:
    def __init__(self, mounts: tuple[Mount, ...]) -> None:
        self._mounts = mounts
        ids = {mount.mount_id for mount in mounts}
        # The kernel uses each number once.
        self._is_numbered = _UNKNOWN not in ids and len(ids) == len(mounts)
        self._children: dict[tuple[int, str], Mount] = {}
        for mount in mounts:
            parent = mount.parent_id
            is_top = parent not in ids or parent == mount.mount_id
            # Two mounts on one place are impossible; the later one counts.
            self._children[_UNKNOWN if is_top else parent, _plain(mount.point)] = mount

    def covering(self, path: str) -> Mount | None:
        if not self._is_numbered:
            return self._last_covering(path)
        current: Mount | None = None
        crossed = set()
        for folder in _folders(path):
            while True:
                # A mount whose parent is not listed (a chroot, a cut table) lies on whatever is
                # visible there.
                here = self._children.get((_UNKNOWN, folder))
                if current is not None:
                    here = self._children.get((current.mount_id, folder), here)
                if here is None or here.mount_id in crossed:
                    break
                current = here
                crossed.add(here.mount_id)
        return current

    def _last_covering(self, path: str) -> Mount | None:
        folders = set(_folders(path))
        for mount in reversed(self._mounts):
            if _plain(mount.point) in folders:
                return mount
        return None


def _on_the_way(lines: list[bytes], fs_types: tuple[bytes, ...]) -> list[bytes]:
    marks = [b" - " + name for name in fs_types]
    wanted = set()
    for line in lines:
        if any(mark in line for mark in marks):
            point = _point(line)
            while point not in wanted:
                wanted.add(point)
                point = point.rpartition(b"/")[0] or b"/"
    return [line for line in lines if _point(line) in wanted]


def _point(line: bytes) -> bytes:
    words = line.split(None, 5)
    return words[4].rstrip(b"/") or b"/" if len(words) > 4 else b""


def _folders(path: str) -> list[str]:
    """Return '/', each folder on the way to `path`, and `path` itself last."""
    folders = ["/"]
    for name in path.split("/"):
        if name:
            folders.append(f"{folders[-1].rstrip('/')}/{name}")
    return folders


def _plain(point: str) -> str:
    return point.rstrip("/") or "/"


def _number(token: bytes) -> int:
    return int(token) if token.isdigit() and len(token) <= 10 else _UNKNOWN


def _text(token: bytes) -> str:
    return unescaped(token).decode("utf-8", "surrogateescape")
