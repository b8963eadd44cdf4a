"""Make disks for guests without mounting them and without root."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

from giveback.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Owner = tuple[int, int]
ROOT: Owner = (0, 0)


def disk_bytes_for(content: Path) -> int:
    """Return the size in bytes of an image that has room for the files of a folder."""
    return sum(max(p.lstat().st_size, 4096) for p in content.rglob("*")) * 5 // 4 + (32 << 20)


def make_ext4(path: Path, size_bytes: int, content: Path | None = None) -> None:
    """Make a sparse ext4 image without mounting it. Raises InputError."""
    program = _program("mke2fs")
    options = ["-qF", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1"]
    source = [] if content is None else ["-d", str(content)]
    done = subprocess.run(
        [program, *options, *source, str(path), f"{size_bytes // 1024}k"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise InputError(f"{path}: mke2fs: {done.stderr.strip()[:300]}")


def unpack_archive(archive: Path, into: Path) -> dict[str, Owner]:
    """Unpack a tar archive as this user, without devices; return the owner of each path in it.

    Raises InputError.
    """
    owners: dict[str, Owner] = {}
    into.mkdir()
    try:
        with tarfile.open(archive) as members:
            for member in members:
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise InputError(f"{archive}: a file in it lies outside: {member.name[:100]!r}")
                owners[member.name.removeprefix("./").rstrip("/")] = (member.uid, member.gid)
    except (OSError, tarfile.TarError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{archive}: cannot be unpacked: {reason}") from error
    words = ["tar", "-xpC", str(into), "--no-same-owner", "--exclude=./dev/*", "-f", str(archive)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InputError(f"{archive}: cannot be unpacked: {done.stderr.strip()[:300]}")
    return owners


def set_owners(disk: Path, content: Path, owners: Mapping[str, Owner]) -> None:
    """Give every file on a disk that was made from `content` its owner: root where none is named.

    Raises InputError.
    """
    rows = []
    for path in sorted(content.rglob("*")):
        name = str(path.relative_to(content))
        uid, gid = owners.get(name, ROOT)
        quoted = name.replace('"', '""')
        rows += [f'sif "/{quoted}" uid {uid}', f'sif "/{quoted}" gid {gid}']
    done = subprocess.run(
        [_program("debugfs"), "-w", "-f", "-", str(disk)],
        input="\n".join(rows) + "\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    # debugfs exits with 0 even if a command fails. Its output begins with its version.
    wrong = [row for row in done.stderr.splitlines() if not row.startswith("debugfs ")]
    if done.returncode != 0 or wrong:
        raise InputError(f"{disk}: debugfs: {' '.join(wrong)[:300]}")


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise InputError(f"{name}: not found: install the package e2fsprogs")
    return found
