"""/proc/zoneinfo: each zone's watermarks, and the free pages on per-CPU lists.

Source: zoneinfo_show_print() in mm/vmstat.c.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number, quoted, text
from giveback_kernel.record import Record

PATH = "/proc/zoneinfo"
# One block of text per CPU and zone: 8 zones of 512 CPUs take about 1 MiB.
READ_LIMIT_BYTES = 8 << 20
_PAGES_LIMIT = 1 << 53
_REQUIRED = (b"free", b"low", b"managed")


class Zone(Record):
    """One zone, in pages. `pcp_pages`, on per-CPU lists, are free, but never reported."""

    node: int
    zone: str
    free_pages: int
    low_pages: int
    managed_pages: int
    pcp_pages: int


class ZoneInfo(Record):
    """Every zone, empty ones included."""

    zones: tuple[Zone, ...]


def parse(data: bytes) -> ZoneInfo:
    """Parse the text of /proc/zoneinfo.

    Raises KernelFileError if a zone lacks a watermark or a value is invalid.
    """
    if not data.startswith(b"Node ") or not data.endswith(b"\n"):
        raise KernelFileError(PATH, "empty, cut off, or not a list of zones")
    return ZoneInfo(tuple([_zone(chunk) for chunk in data[5:].split(b"\nNode ")]))


def read_zoneinfo(root: str = "/") -> ZoneInfo:
    """Read /proc/zoneinfo under `root`. Raises KernelFileError."""
    return parse(files.read(root, PATH, READ_LIMIT_BYTES))


def below_low_watermark(info: ZoneInfo) -> bool:
    """Return whether a zone that matters has fewer free pages than its low watermark.

    Below it kswapd runs: the guest itself is short of memory. A zone with less than 1/16 of the
    managed pages does not matter: the kernel reserves a small DMA zone for its own users.
    """
    smallest = sum([zone.managed_pages for zone in info.zones]) // 16
    return any(
        zone.managed_pages > smallest and zone.free_pages < zone.low_pages for zone in info.zones
    )


def pcp_pages(info: ZoneInfo) -> int:
    """Return the free pages on the per-CPU lists of all zones."""
    return sum([zone.pcp_pages for zone in info.zones])


def _zone(chunk: bytes) -> Zone:
    title, _, body = chunk.partition(b"\n")
    words = title.split()
    start = body.find(b"pages free")
    if len(words) != 3 or not words[0].endswith(b",") or words[1] != b"zone" or start < 0:
        raise KernelFileError(PATH, f"not a zone: {quoted(title)}")
    end = body.find(b"protection:", start)
    # "pages free N min N low N ...": the word before each number names it.
    words_of_amounts = body[start + len(b"pages ") : end if end >= 0 else None].split()
    amounts = dict(zip(words_of_amounts[::2], words_of_amounts[1::2]))
    name = text(words[2])
    values: dict[str, int] = {}
    for key in _REQUIRED:
        if key not in amounts:
            raise KernelFileError(PATH, f"zone {name} has no {key.decode()!r}")
        values[f"{key.decode()}_pages"] = number(PATH, key.decode(), amounts[key], _PAGES_LIMIT)
    node = number(PATH, "node", words[0][:-1], 1 << 16)
    return Zone(node=node, zone=name, pcp_pages=_pcp_pages(body, end), **values)


def _pcp_pages(body: bytes, start: int) -> int:
    total = 0
    for piece in body[max(0, start) :].split(b"count:")[1:]:
        words = piece.split(None, 1)
        if not words:
            raise KernelFileError(PATH, "a per-CPU list has no count")
        total += number(PATH, "count", words[0], _PAGES_LIMIT)
    return total
