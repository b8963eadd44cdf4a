"""Read /proc/PID/smaps: the host's charge for each mapping of a process.

Source: Linux Documentation/filesystems/proc.rst, fs/proc/task_mmu.c. `Rss` leaves hugetlb pages
out: they are counted in `Shared_Hugetlb` and `Private_Hugetlb`, and `resident_bytes` adds them.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from giveback.errors import NOT_READABLE, VmError
from giveback_kernel.files import under

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SMAPS_LIMIT_BYTES = 64 << 20
"""65,530 mappings (the kernel's default limit) of about 900 bytes each."""
MAPPINGS_LIMIT = 4096
"""Limit of large mappings: a VM has some dozens, and a stranger's process any number."""
_PIECE_BYTES = 1 << 20

_HEADER = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) (\S{4}) ([0-9a-f]{1,16}) (\S+) (\d{1,19})[ \t]*(.*)$",
    re.MULTILINE,
)
_SIZE = re.compile(rb"^(\w+): +(\d{1,15}) kB$", re.MULTILINE)
_THP = re.compile(rb"^THPeligible: +([01])$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """The charge for one or several mappings, in bytes; the kernel counts in KiB."""

    rss_bytes: int = 0
    pss_bytes: int = 0
    swap_bytes: int = 0
    hugetlb_bytes: int = 0
    huge_bytes: int = 0
    """AnonHugePages + ShmemPmdMapped + FilePmdMapped: the part mapped by huge pages."""
    locked_bytes: int = 0
    ksm_bytes: int = 0

    @property
    def resident_bytes(self) -> int:
        """Rss plus hugetlb pages."""
        return self.rss_bytes + self.hugetlb_bytes

    @property
    def shared_bytes(self) -> int:
        """The part of Rss that is charged to other mappings: Rss minus Pss."""
        return max(0, self.rss_bytes - self.pss_bytes)

    def __add__(self, other: Usage) -> Usage:
        return self._combine(other, 1)

    def __sub__(self, other: Usage) -> Usage:
        return self._combine(other, -1)

    def _combine(self, other: Usage, sign: int) -> Usage:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Usage(*(mine + sign * theirs for mine, theirs in pairs))


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping. `offset_bytes` is its offset in the file; `name` is '' for anonymous memory."""

    start: int
    end: int
    permissions: str
    offset_bytes: int
    device: str
    inode: int
    name: str
    usage: Usage = Usage()
    kernel_page_bytes: int = 4096
    thp_eligible: bool | None = None
    """Whether the kernel may use transparent huge pages for it; None if the kernel does not tell."""

    @property
    def size_bytes(self) -> int:
        """Size of its address range."""
        return self.end - self.start


def parse_smaps(text: bytes) -> tuple[Mapping, ...]:
    """Parse every mapping of `/proc/PID/smaps`; or of `/proc/PID/maps`, without usage.

    Other lines are ignored: a truncated file gives the complete mappings.
    """
    headers = list(_HEADER.finditer(text))
    mappings = []
    for index, header in enumerate(headers):
        end = headers[index + 1].start() if index + 1 < len(headers) else len(text)
        mappings.append(_mapping(header, text[header.end() : end]))
    return tuple(mappings)


def _mapping(header: re.Match[bytes], body: bytes) -> Mapping:
    sizes = _sizes(body)
    eligible = _THP.search(body)
    start, end, permissions, offset, device, inode, name = header.groups()
    return Mapping(
        start=int(start, 16),
        end=int(end, 16),
        permissions=permissions.decode("ascii", "replace"),
        offset_bytes=int(offset, 16),
        device=device.decode("ascii", "replace"),
        inode=int(inode),
        name=os.fsdecode(name),
        usage=_usage(sizes),
        kernel_page_bytes=sizes.get(b"KernelPageSize", 4096),
        thp_eligible=None if eligible is None else eligible.group(1) == b"1",
    )


def _sizes(body: bytes) -> dict[bytes, int]:
    return {name: int(kib) << 10 for name, kib in _SIZE.findall(body)}


def _usage(sizes: dict[bytes, int]) -> Usage:
    get = sizes.get
    return Usage(
        rss_bytes=get(b"Rss", 0),
        pss_bytes=get(b"Pss", 0),
        swap_bytes=get(b"Swap", 0),
        hugetlb_bytes=get(b"Shared_Hugetlb", 0) + get(b"Private_Hugetlb", 0),
        huge_bytes=get(b"AnonHugePages", 0) + get(b"ShmemPmdMapped", 0) + get(b"FilePmdMapped", 0),
        locked_bytes=get(b"Locked", 0),
        ksm_bytes=get(b"KSM", 0),
    )


_SUMMED = re.compile(
    rb"\n(Rss|Pss|Swap|Shared_Hugetlb|Private_Hugetlb|AnonHugePages|ShmemPmdMapped|FilePmdMapped"
    rb"|Locked|KSM): +([1-9]\d{0,14}) kB"
)


def total(text: bytes) -> Usage:
    """Sum up all mappings of `/proc/PID/smaps` without making records of them.

    This is ten times cheaper than `parse_smaps`: a QEMU process has 300 mappings, a host many processes,
    and most lines are 0.
    """
    sizes: dict[bytes, int] = {}
    for name, kib in _SUMMED.findall(text):
        sizes[name] = sizes.get(name, 0) + (int(kib) << 10)
    return _usage(sizes)


def parse_maps(text: bytes, at_least_bytes: int = 0) -> tuple[Mapping, ...]:
    """Parse the mappings of `/proc/PID/maps`, or those of smaps at less cost; usage stays zero.

    Mappings smaller than `at_least_bytes` are left out.
    """
    return tuple(_mapping(header, b"") for header in _headers_of(text, at_least_bytes))


def _headers_of(text: bytes, at_least_bytes: int) -> Iterator[re.Match[bytes]]:
    headers = _HEADER.finditer(text)
    if at_least_bytes >= _LARGE_BYTES and b"\nSize:" in text:
        headers = _large_headers(text)
    for header in headers:
        if int(header.group(2), 16) - int(header.group(1), 16) >= at_least_bytes:
            yield header


_LARGE_BYTES = 1000 << 10
_LARGE = re.compile(rb"\nSize: +[1-9]\d{3,} kB")


def _large_headers(text: bytes) -> Iterator[re.Match[bytes]]:
    """Yield the headers of mappings of at least 1000 KiB, found by their Size line: most are smaller."""
    for size in _LARGE.finditer(text):
        header = _HEADER.match(text, text.rfind(b"\n", 0, size.start()) + 1)
        if header is not None:
            yield header


def add(usages: Iterable[Usage]) -> Usage:
    """Return the sum of usages."""
    result = Usage()
    for usage in usages:
        result = result + usage
    return result


def hugetlb_twice_bytes(mappings: Iterable[Mapping]) -> int:
    """Return the hugetlb bytes that are only counted because a process maps the same pages again. Pure.

    The kernel has no Pss for hugetlb pages: each mapping counts them whole. Of one file, no more can be
    there than the union of what is mapped of it.
    """
    ranges: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    for one in mappings:
        if one.usage.hugetlb_bytes and one.inode:
            place = (one.offset_bytes, one.offset_bytes + one.size_bytes, one.usage.hugetlb_bytes)
            ranges.setdefault((one.device, one.inode), []).append(place)
    return sum(_twice_bytes(sorted(places)) for places in ranges.values())


def _twice_bytes(places: list[tuple[int, int, int]]) -> int:
    union_bytes = reached = 0
    for start, end, _ in places:
        union_bytes += max(0, end - max(start, reached))
        reached = max(reached, end)
    return max(0, sum(counted for _, _, counted in places) - union_bytes)


def scan(pieces: Iterable[bytes], at_least_bytes: int) -> tuple[Usage, tuple[Mapping, ...]]:
    """Return the sum over all mappings, and the mappings of at least `at_least_bytes` with their usage.

    Each piece has whole mappings; only the large ones are kept. Raises VmError if there are more than
    MAPPINGS_LIMIT large ones.
    """
    sizes: dict[bytes, int] = {}
    large: list[Mapping] = []
    for piece in pieces:
        for name, kib in _SUMMED.findall(piece):
            sizes[name] = sizes.get(name, 0) + (int(kib) << 10)
        for header in _headers_of(piece, at_least_bytes):
            following = _HEADER.search(piece, header.end())
            body = piece[header.end() : following.start() if following else len(piece)]
            large.append(_mapping(header, body))
            if len(large) > MAPPINGS_LIMIT:
                raise VmError(
                    f"the process has more than {MAPPINGS_LIMIT} mappings of {at_least_bytes >> 10} KiB "
                    "or more, too many to find guest RAM among them"
                )
    return _usage(sizes), tuple(large)


def pieces_of(root: str, pid: int) -> Iterator[bytes]:
    """Yield `/proc/PID/smaps` in pieces of about one MiB, each of whole mappings.

    Raises VmError if the process has ended, if the permission to read it is missing (the message names
    it), or if the file is longer than SMAPS_LIMIT_BYTES.
    """
    path = under(root, f"/proc/{pid}/smaps")
    left = b""
    size = 0
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while chunk := os.read(fd, _PIECE_BYTES):
                size += len(chunk)
                if size > SMAPS_LIMIT_BYTES:
                    raise VmError(
                        f"{path}: longer than {SMAPS_LIMIT_BYTES} bytes; not read further"
                    )
                left += chunk
                if len(left) >= _PIECE_BYTES:
                    cut = _last_header(left)
                    yield left[:cut]
                    left = left[cut:]
        finally:
            os.close(fd)
    except OSError as error:
        raise VmError(f"{path}: {_reason(error, pid)}") from error
    yield left


def _last_header(text: bytes) -> int:
    """Return the offset at which the last mapping begins, or 0."""
    end = len(text)
    while (line := text.rfind(b"\n", 0, end)) >= 0:
        if _HEADER.match(text, line + 1):
            return line + 1
        end = line
    return 0


def read_smaps(root: str, pid: int) -> bytes:
    """Read all of `/proc/PID/smaps`. Raises VmError as `pieces_of` does."""
    return b"".join(pieces_of(root, pid))


def resident_of_mapping(pid: int, name: str, root: str = "/") -> Usage:
    """Return the summed usage of all mappings named `name` (a path, or `memfd:` and its name).

    Suitable for sampling every second: it parses only the named mappings, in one pass over smaps.
    Raises VmError if no mapping has the name.
    """
    wanted = os.fsencode(name)
    names = (wanted, wanted + b" (deleted)", b"/" + wanted + b" (deleted)")
    found = []
    for piece in pieces_of(root, pid):
        headers = list(_HEADER.finditer(piece))
        for index, header in enumerate(headers):
            if header.group(7) in names:
                end = headers[index + 1].start() if index + 1 < len(headers) else len(piece)
                found.append(_mapping(header, piece[header.end() : end]).usage)
    if not found:
        raise VmError(
            f"process {pid} has no mapping named {name}; /proc/{pid}/maps lists its mappings"
        )
    return add(found)


def _reason(error: OSError, pid: int) -> str:
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return f"process {pid} has ended"
    if error.errno in (errno.EACCES, errno.EPERM):
        return NOT_READABLE
    return error.strerror or str(error)
