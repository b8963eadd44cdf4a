"""The multi-gen LRU: how old the page cache is, and requests to age and to evict it.

Source: Documentation/admin-guide/mm/multigen_lru.rst and lru_gen_seq_show() in mm/vmscan.c. The
histogram is in debugfs: root only, and absent where debugfs is not mounted.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number, quoted, text
from giveback_kernel.record import Record

ENABLED_PATH = "/sys/kernel/mm/lru_gen/enabled"
PATH = "/sys/kernel/debug/lru_gen"
# The two youngest generations stand for the active list and cannot be evicted.
YOUNG_GENERATIONS = 2
_PAGES_LIMIT = 1 << 53


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
    """Tell whether the multi-gen LRU is in use under `root`; False where the kernel has none.

    Raises KernelFileError where the switch cannot be understood.
    """
    if not files.exists(root, ENABLED_PATH):
        return False
    return bool(parse_enabled(files.read(root, ENABLED_PATH, 4096)) & 1)


def parse(data: bytes) -> LruGen:
    """Parse the text of lru_gen. Raises KernelFileError where a line belongs to nothing."""
    lists: list[NodeGenerations] = []
    memcg: tuple[int, str] | None = None
    node: int | None = None
    generations: list[Generation] = []
    for line in data.split(b"\n")[:-1]:
        words = line.split()
        if not words:
            continue
        if words[0] in (b"memcg", b"node"):
            _finish(lists, memcg, node, generations)
            generations = []
            if words[0] == b"memcg":
                memcg, node = _memcg(line), None
            elif memcg is not None and len(words) == 2:
                node = number(PATH, "node", words[1], 1 << 16)
            else:
                raise KernelFileError(PATH, f"a node without a memcg: {quoted(line)}")
        elif node is not None and len(words) == 4:
            generations.append(_generation(words))
        else:
            raise KernelFileError(PATH, f"not a generation: {quoted(line)}")
    _finish(lists, memcg, node, generations)
    return LruGen(tuple(lists))


def read_lru_gen(root: str = "/") -> LruGen | None:
    """Read lru_gen under `root`; None where it is missing or this user may not.

    Raises KernelFileError for any other failure, and for nonsense.
    """
    data = files.read_if_permitted(root, PATH)
    return None if data is None else parse(data)


def cold_file_pages(lru: LruGen, older_than_ms: int) -> int:
    """Count the evictable file pages in generations that are older than `older_than_ms`."""
    return sum(
        [
            generation.file_pages
            for one in lru.lists
            for generation in one.generations[:-YOUNG_GENERATIONS]
            if generation.age_ms >= older_than_ms
        ]
    )


def aging_request(one: NodeGenerations, can_swap: bool | None = None, force: bool = False) -> str:
    """Return the words that open a new generation, so that what is used from now on stands apart.

    `can_swap` is also whether anonymous pages are aged; `force` without it is not expressible.
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

    Raises ValueError where the kernel would refuse: `up_to` is one of the two youngest, or `pages`
    is given without `swappiness`.
    """
    if not one.generations or up_to + YOUNG_GENERATIONS > one.generations[-1].number:
        raise ValueError(f"generation {up_to} of memcg {one.memcg_id} is too young to evict")
    if pages is not None and swappiness is None:
        raise ValueError("a limit in pages needs a swappiness before it")
    words = [f"- {one.memcg_id} {one.node} {up_to}"]
    words += [str(value) for value in (swappiness, pages) if value is not None]
    return " ".join(words)


def write_request(root: str, request: str) -> None:
    """Hand a request to lru_gen; blocks until done. Raises KernelFileError."""
    files.write(root, PATH, request)


def _finish(
    lists: list[NodeGenerations],
    memcg: tuple[int, str] | None,
    node: int | None,
    generations: list[Generation],
) -> None:
    if memcg is not None and node is not None:
        lists.append(NodeGenerations(memcg[0], memcg[1], node, tuple(generations)))


def _memcg(line: bytes) -> tuple[int, str]:
    words = line.split(None, 2)
    if len(words) < 2:
        raise KernelFileError(PATH, f"a memcg without a number: {quoted(line)}")
    return number(PATH, "memcg", words[1]), text(words[2].rstrip()) if len(words) > 2 else ""


def _generation(words: list[bytes]) -> Generation:
    return Generation(
        number(PATH, "generation", words[0]),
        number(PATH, "age", words[1]),
        number(PATH, "anon pages", words[2], _PAGES_LIMIT),
        number(PATH, "file pages", words[3], _PAGES_LIMIT),
    )
