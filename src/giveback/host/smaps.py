"""/proc/PID/smaps and smaps_rollup: what each mapping of a process costs the host.

Source: Linux Documentation/filesystems/proc.rst, fs/proc/task_mmu.c. `Rss` leaves hugetlb pages
out: they are counted in `Shared_Hugetlb` and `Private_Hugetlb`, and `resident_bytes` adds them.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback_kernel.files import under

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SMAPS_LIMIT_BYTES = 64 << 20
"""65,530 mappings (the kernel's default limit) of about 900 bytes each."""
MAPPINGS_LIMIT = 4096
"""Large mappings that are looked at: a VM has some dozens, any process as many as it likes."""
_PIECE_BYTES = 1 << 20

_HEADER = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) (\S{4}) ([0-9a-f]{1,16}) (\S+) (\d{1,19})[ \t]*(.*)$",
    re.MULTILINE,
)
_SIZE = re.compile(rb"^(\w+): +(\d{1,15}) kB$", re.MULTILINE)
_THP = re.compile(rb"^THPeligible: +([01])$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a mapping, or several added up, costs. Bytes, as the kernel rounds them (to KiB)."""

    rss_bytes: int = 0
    pss_bytes: int = 0
    swap_bytes: int = 0
    hugetlb_bytes: int = 0
    huge_bytes: int = 0
    """AnonHugePages + ShmemPmdMapped + FilePmdMapped: the part that is mapped by huge pages."""
    locked_bytes: int = 0
    ksm_bytes: int = 0

    @property
    def resident_bytes(self) -> int:
        """Rss and hugetlb pages."""
        return self.rss_bytes + self.hugetlb_bytes

    @property
    def shared_bytes(self) -> int:
        """The part of Rss that other mappings share, so that it is charged to several."""
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
    """One mapping. `offset_bytes` is into the file; `name` is '' for anonymous memory."""

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
    """Whether it may be made of transparent huge pages; None where the kernel does not say."""

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


def parse_smaps(text: bytes) -> tuple[Mapping, ...]:
    """Every mapping of `/proc/PID/smaps` (or, without usage, of `/proc/PID/maps`).

    What is no mapping is passed over: a truncated file gives the mappings that are whole.
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
    """The sum over all mappings of `/proc/PID/smaps`, without building them.

    Ten times cheaper than `parse_smaps`: a QEMU process has 300 mappings, a host many of those, and
    most lines say 0.
    """
    sizes: dict[bytes, int] = {}
    for name, kib in _SUMMED.findall(text):
        sizes[name] = sizes.get(name, 0) + (int(kib) << 10)
    return _usage(sizes)


def parse_maps(text: bytes, at_least_bytes: int = 0) -> tuple[Mapping, ...]:
    """The mappings of `/proc/PID/maps`, or of smaps at less cost: usage stays zero.

    Those smaller than `at_least_bytes` are left out.
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
    """The headers of mappings of 1000 KiB and more, found by the line below: most are smaller."""
    for size in _LARGE.finditer(text):
        header = _HEADER.match(text, text.rfind(b"\n", 0, size.start()) + 1)
        if header is not None:
            yield header


def add(usages: Iterable[Usage]) -> Usage:
    """The sum of usages."""
    result = Usage()
    for usage in usages:
        result = result + usage
    return result


def scan(pieces: Iterable[bytes], at_least_bytes: int) -> tuple[Usage, tuple[Mapping, ...]]:
    """Return the sum over all mappings, and those of `at_least_bytes` with their own usage.

    Each piece holds whole mappings, and only what is large of them is kept. Raises VmError for more than
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
                    "and more; which of them are RAM is not looked for"
                )
    return _usage(sizes), tuple(large)


def pieces_of(root: str, pid: int) -> Iterator[bytes]:
    """`/proc/PID/smaps` in pieces of about a MiB, each of whole mappings.

    Raises VmError where the process has gone, where the right to read it is missing (which one is
    said), or where it is longer than SMAPS_LIMIT_BYTES.
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
    """Where the last mapping begins; 0 where none does."""
    end = len(text)
    while (line := text.rfind(b"\n", 0, end)) >= 0:
        if _HEADER.match(text, line + 1):
            return line + 1
        end = line
    return 0


def read_smaps(root: str, pid: int) -> bytes:
    """`/proc/PID/smaps` whole. Raises VmError as `pieces_of` does."""
    return b"".join(pieces_of(root, pid))


def resident_of_mapping(pid: int, name: str, root: str = "/") -> Usage:
    """The usage of all mappings called `name` (a path, or `memfd:` and its name), added up.

    For sampling every second: one pass over smaps, and only the named mappings are parsed.
    Raises VmError where none is called so.
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
            f"process {pid} maps nothing called {name}; /proc/{pid}/maps lists what it maps"
        )
    return add(found)


def _reason(error: OSError, pid: int) -> str:
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return f"process {pid} has ended"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no right to read it; run as root or with CAP_SYS_PTRACE"
    return error.strerror or str(error)
