"""The multi-gen LRU: how old the page cache is, and requests to age and to evict it.

Source: Documentation/admin-guide/mm/multigen_lru.rst and lru_gen_seq_show() in mm/vmscan.c. The
histogram is in debugfs: root only, and absent where debugfs is not mounted.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number, quoted, text
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    # Number, path as printed, node, the generations' words, and the sum of their file pages.
    RawList = tuple[int, str, int, list[list[bytes]], int]

ENABLED_PATH = "/sys/kernel/mm/lru_gen/enabled"
PATH = "/sys/kernel/debug/lru_gen"
# The two youngest generations stand for the active list and cannot be evicted.
YOUNG_GENERATIONS = 2
_PAGES_LIMIT = 1 << 53
# A line has a path of at most 4 KiB in it.
_LINE_LIMIT_BYTES = 1 << 14
_GENERATIONS_LIMIT = 64


class Generation(Record):
    """Pages last used about `age_ms` ago."""

    number: int
    age_ms: int
    anon_pages: int
    file_pages: int


class NodeGenerations(Record):
    """The generations of one memory cgroup on one NUMA node, oldest first."""

    memcg_id: int
    memcg_path: str
    node: int
    generations: tuple[Generation, ...]

    @property
    def file_pages(self) -> int:
        """File pages of all generations."""
        return sum([generation.file_pages for generation in self.generations])

    @property
    def anon_pages(self) -> int:
        """Anonymous pages of all generations."""
        return sum([generation.anon_pages for generation in self.generations])

    @property
    def has_ended(self) -> bool:
        """Whether the cgroup has been removed."""
        return has_ended(self.memcg_id, self.memcg_path)


class LruGen(Record):
    """Every cgroup's generations."""

    lists: tuple[NodeGenerations, ...]


def parse_enabled(data: bytes) -> int:
    """Parse the switch, `0x0007`: bit 0 is the multi-gen LRU itself. Raises KernelFileError."""
    word = data.strip()
    digits = word[2:] if word[:2] == b"0x" else b""
    if not 0 < len(digits) <= 8 or digits.strip(b"0123456789abcdefABCDEF"):
        raise KernelFileError(ENABLED_PATH, f"not a set of switches: {quoted(data)}")
    return int(digits, 16)


def read_enabled(root: str = "/") -> bool:
    """Return whether the multi-gen LRU is in use under `root`; False if the kernel has none.

    Raises KernelFileError if the switch has an invalid value.
    """
    if not files.exists(root, ENABLED_PATH):
        return False
    return bool(parse_enabled(files.read(root, ENABLED_PATH, 4096)) & 1)


def parse(data: bytes) -> LruGen:
    """Parse the text of lru_gen. Raises KernelFileError if a line belongs to no list."""
    return LruGen(
        tuple(
            [
                NodeGenerations(memcg_id, path, node, tuple([generation(words) for words in rows]))
                for memcg_id, path, node, rows, _ in raw_lists((data, b""))
            ]
        )
    )


def raw_lists(read: Iterable[bytes]) -> Iterator[RawList]:
    """Split the text of lru_gen, in pieces of any size, into lists. An empty piece ends it.

    Raises KernelFileError if a line belongs to no list.
    """
    parts = _Parts()
    tail = b""
    for piece in read:
        lines = (tail + piece).split(b"\n")
        tail = lines.pop()
        if len(tail) > _LINE_LIMIT_BYTES:
            raise KernelFileError(PATH, f"a line of more than {_LINE_LIMIT_BYTES} bytes")
        for line in lines:
            finished = parts.take(line)
            if finished is not None:
                yield finished
        if not piece:
            last = parts.finish()
            if last is not None:
                yield last


def generation(words: list[bytes]) -> Generation:
    """Parse the four words of a generation. Raises KernelFileError."""
    return Generation(
        number(PATH, "generation", words[0]),
        number(PATH, "age", words[1]),
        number(PATH, "anon pages", words[2], _PAGES_LIMIT),
        number(PATH, "file pages", words[3], _PAGES_LIMIT),
    )


def read_lru_gen(root: str = "/") -> LruGen | None:
    """Read lru_gen under `root`; None if it is missing or this user may not. For any length see lru_gen_scan.

    Raises KernelFileError for any other failure, and for invalid text.
    """
    data = files.read_if_permitted(root, PATH)
    return None if data is None else parse(data)


def has_ended(memcg_id: int, path: str) -> bool:
    """Return whether a listed cgroup has been removed: it is shown under the number 0.

    Without memory cgroups there is one list, of number 0 too, but without a path. Source:
    lru_gen_seq_show() in mm/vmscan.c, mem_cgroup_id_remove() in mm/memcontrol.c.
    """
    return memcg_id == 0 and path not in ("", "/")


def shrunk(one: NodeGenerations, up_to: int, inactive_pages: int) -> tuple[Generation, ...]:
    """Return the generations with `inactive_pages` in those up to number `up_to`, all in the last of them.

    For older generations the pages beyond `up_to` are then unknown; callers do not need them.
    """
    taken = [generation for generation in one.generations if generation.number <= up_to]
    before = sum([generation.file_pages for generation in taken])
    left = min(before, inactive_pages)
    return tuple(
        [
            replace(generation, file_pages=left if generation.number == taken[-1].number else 0)
            if generation.number <= up_to
            else generation
            for generation in one.generations
        ]
    )


def aging_request(one: NodeGenerations, can_swap: bool | None = None, force: bool = False) -> str:
    """Return the words that open a new generation, so that pages used from now on are told apart.

    `can_swap` also says whether anonymous pages are aged; `force` cannot be expressed without it.
    Raises ValueError for that, and for a list without generations.
    """
    if not one.generations:
        raise ValueError(f"memcg {one.memcg_id} node {one.node} has no generations")
    if can_swap is None:
        if force:
            raise ValueError("force_scan needs can_swap before it")
        tail = ""
    else:
        tail = f" {int(can_swap)} {int(force)}"
    return f"+ {one.memcg_id} {one.node} {one.generations[-1].number}{tail}"


def eviction_request(
    one: NodeGenerations, up_to: int, swappiness: int | None = None, pages: int | None = None
) -> str:
    """Return the words that evict the generations up to number `up_to`, at most `pages` pages.

    Raises ValueError if the kernel would refuse: `up_to` is one of the two youngest, or `pages` is
    given without `swappiness`.
    """
    if not one.generations or up_to + YOUNG_GENERATIONS > one.generations[-1].number:
        raise ValueError(f"generation {up_to} of memcg {one.memcg_id} is too young to evict")
    if pages is not None and swappiness is None:
        raise ValueError("a limit in pages needs a swappiness before it")
    words = [f"- {one.memcg_id} {one.node} {up_to}"]
    words += [str(value) for value in (swappiness, pages) if value is not None]
    return " ".join(words)


def write_request(root: str, request: str) -> None:
    """Write a request to lru_gen; blocks until done. Raises KernelFileError."""
    files.write(root, PATH, request)


class _Parts:
    """The list that is being read."""

    def __init__(self) -> None:
        self._memcg: tuple[int, str] | None = None
        self._node: int | None = None
        self._rows: list[list[bytes]] = []
        self._pages = 0

    def take(self, line: bytes) -> RawList | None:
        """Take a line; return the previous list if the line begins another one."""
        words = line.split()
        if not words:
            return None
        first = words[0]
        if first == b"node" or first == b"memcg":
            finished = self.finish()
            if first == b"memcg":
                self._memcg, self._node = _memcg(line), None
            elif self._memcg is not None and len(words) == 2:
                self._node = number(PATH, "node", words[1], 1 << 16)
            else:
                raise KernelFileError(PATH, f"a node without a memcg: {quoted(line)}")
            return finished
        if self._node is None or len(words) != 4 or len(self._rows) >= _GENERATIONS_LIMIT:
            raise KernelFileError(PATH, f"not a generation: {quoted(line)}")
        self._rows.append(words)
        pages = words[3]
        # A check that rarely fails and runs 400,000 times must be cheap.
        if not pages.isdigit() or len(pages) > 16:
            raise KernelFileError(PATH, f"file pages is not a number: {quoted(pages)}")
        self._pages += int(pages)
        return None

    def finish(self) -> RawList | None:
        """Return the list that was read; the next one is of the same cgroup."""
        if self._memcg is None or self._node is None:
            return None
        found = (self._memcg[0], self._memcg[1], self._node, self._rows, self._pages)
        self._node, self._rows, self._pages = None, [], 0
        return found


def _memcg(line: bytes) -> tuple[int, str]:
    words = line.split(None, 2)
    if len(words) < 2:
        raise KernelFileError(PATH, f"a memcg without a number: {quoted(line)}")
    return number(PATH, "memcg", words[1]), text(words[2].rstrip()) if len(words) > 2 else ""
