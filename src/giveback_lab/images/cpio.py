"""Initramfs archives: the kernel's `newc` cpio format.

Source: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

from dataclasses import dataclass

DIRECTORY_MODE = 0o040755
FILE_MODE = 0o100644
PROGRAM_MODE = 0o100755
SYMLINK_MODE = 0o120777


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """One member: `name` without a leading slash, `mode` with its type bits."""

    name: str
    data: bytes = b""
    mode: int = FILE_MODE


def archive(entries: list[ArchiveEntry]) -> bytes:
    """Return the entries as one uncompressed archive; archives may be concatenated into one initrd.

    Owners and times are zero, so that the same content gives the same bytes. The parent folders of
    each entry are added.
    """
    members: dict[str, ArchiveEntry] = {}
    for entry in entries:
        parts = entry.name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            members.setdefault(folder, ArchiveEntry(folder, mode=DIRECTORY_MODE))
        members[entry.name] = entry
    blocks = [_member(number, entry) for number, entry in enumerate(members.values(), start=1)]
    blocks.append(_member(0, ArchiveEntry("TRAILER!!!", mode=0)))
    return b"".join(blocks)


def _member(inode: int, entry: ArchiveEntry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if entry.mode == DIRECTORY_MODE else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % f for f in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
