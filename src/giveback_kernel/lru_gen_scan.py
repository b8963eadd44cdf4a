"""Read lru_gen of any length: as a stream, in bounded memory and bounded CPU time.

The file has a line per cgroup, and five per NUMA node of it: 2.5 MB for 10,000 cgroups and one
node. The scan keeps the lists with the most cold cache, and sums of all. The kernel starts each
read of a page of text with a walk over all cgroups before it (lru_gen_seq_start() in mm/vmscan.c),
so its time grows with the square of their number. The caller therefore sets a limit in CPU seconds,
and gets what was read until then.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.lru_gen import PATH, NodeGenerations, generation, has_ended, raw_lists
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

KEPT_LISTS = 256
# 64 MB are 30,000 cgroups on eight nodes.
READ_LIMIT_BYTES = 64 << 20
# Including the kernel's time. A pass may cost 2 s.
CPU_LIMIT_S = 1.0


class LruScan(Record):
    """The result of a scan: the `lists` of the highest value, highest first, and sums over all.

    `ended_pages` are the file pages of cgroups that have ended. `read_bytes` is the length that was
    read: the whole file only if `complete`.
    """

    lists: tuple[NodeGenerations, ...] = ()
    count: int = 0
    file_pages: int = 0
    ended_pages: int = 0
    read_bytes: int = 0
    complete: bool = True


def pieces(root: str = "/", cpu_limit_s: float = CPU_LIMIT_S) -> Iterator[bytes]:
    """Read lru_gen under `root` piece by piece; an empty last piece means that it was read whole.

    Raises KernelFileError if it is missing, or if this user may not read it.
    """
    return files.pieces(root, PATH, READ_LIMIT_BYTES, cpu_limit_s)


def scan(
    read: Iterable[bytes],
    value: Callable[[NodeGenerations], int],
    least_pages: int = 1,
    keep: int = KEPT_LISTS,
    within: str = "",
    only_node: int | None = None,
) -> LruScan:
    """Keep the `keep` lists of the highest `value` above 0 that have at least `least_pages` of files.

    `within` is the path of this process's top cgroup: other cgroups are left out, and paths are
    relative to it. `only_node` leaves the lists of other NUMA nodes out. Raises KernelFileError as
    `raw_lists` does.
    """
    kept: list[tuple[int, NodeGenerations]] = []
    count = file_pages = ended_pages = 0
    counted = _Counted(read)
    for memcg_id, printed, node, rows, pages in raw_lists(counted):
        path = below(printed, within)
        if path is None or only_node not in (None, node):
            continue
        count += 1
        file_pages += pages
        if has_ended(memcg_id, printed):
            ended_pages += pages
        if pages < least_pages or keep <= 0:
            continue
        one = NodeGenerations(memcg_id, path, node, tuple([generation(words) for words in rows]))
        worth = value(one)
        if worth > 0:
            kept.append((worth, one))
            if len(kept) >= 2 * keep:
                kept = _best(kept, keep)
    lists = tuple([one for _, one in _best(kept, keep)])
    return LruScan(lists, count, file_pages, ended_pages, counted.bytes, counted.ended)


def find(read: Iterable[bytes], memcg_id: int, node: int) -> NodeGenerations | None:
    """Read on until one cgroup's list on one node is found; return None if it no longer exists."""
    for number_, path, at_node, rows, _ in raw_lists(read):
        if number_ == memcg_id and at_node == node:
            return NodeGenerations(number_, path, at_node, tuple([generation(row) for row in rows]))
    return None


def below(path: str, within: str) -> str | None:
    """Return `path` relative to the cgroup `within`; None if it is not below it."""
    if within in ("", "/"):
        return path
    if path == within:
        return "/"
    return path[len(within) :] if path.startswith(within + "/") else None


class _Counted:
    """The pieces, counted; `ended` is set by the empty one."""

    def __init__(self, read: Iterable[bytes]) -> None:
        self._read = read
        self.bytes = 0
        self.ended = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._read:
            self.bytes += len(piece)
            self.ended = not piece
            yield piece


def _best(kept: list[tuple[int, NodeGenerations]], keep: int) -> list[tuple[int, NodeGenerations]]:
    return sorted(kept, key=lambda pair: -pair[0])[:keep]
