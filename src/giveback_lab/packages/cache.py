"""The user's cache folder: the lab builds each thing once and finds it again by a key of its content."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_kernel import private_lock
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def cache_root() -> Path:
    """Return `$XDG_CACHE_HOME/giveback`, else `~/.cache/giveback`; create it. Raises InputError."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = Path(base).expanduser() / "giveback"
    try:
        make_folder(root)
    except OSError as error:
        raise InputError(
            f"{root}: {error.strerror}: set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return root


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it, that other users may not write, whatever the umask. Raises OSError.

    Programs in it are run on the host. Its mode is set here: `parents=True` gives those above any mode.
    """
    for one in (*reversed(folder.parents), folder):
        one.mkdir(mode=0o755, exist_ok=True)


def content_key(*parts: str | bytes) -> str:
    """Return a short name for exactly this content: 16 hex digits of SHA-256 over the framed parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two builds of the same thing wait for each other.

    Raises InputError where the folder or its lock cannot be made.
    """
    try:
        make_folder(folder)
        fd = private_lock.take(str(folder / ".lock"), wait_s=math.inf)
    except (OSError, KernelFileError) as error:
        raise InputError(f"{error}: set XDG_CACHE_HOME to a folder of your own") from error
    if fd is None:
        raise InputError(f"{folder / '.lock'}: another process holds it")
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yield a scratch folder. It becomes `target` if the block succeeds, else it is removed.

    A killed build leaves no incomplete `target`; the next build removes its scratch folder.
    """
    make_folder(target.parent)
    for stale in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def used(entry: Path) -> Path:
    """Mark a cache entry as used now, for `entries`; return it."""
    with suppress(OSError):
        os.utime(entry)
    return entry


def built(target: Path, build: Callable[[Path], None]) -> Path:
    """Return the cache entry `target`. If it does not exist, `build` makes it in a scratch folder first."""
    with locked(target.parent):
        if not target.exists():
            with building(target) as scratch:
                build(scratch)
    return used(target)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing that the lab has built or fetched: a folder such as `kernels/KEY`."""

    path: Path
    size_bytes: int
    used_s: float

    @property
    def kind(self) -> str:
        """The kind of thing, which is the name of the folder above it."""
        return self.path.parent.name


def entries(root: Path) -> list[CacheEntry]:
    """Return all entries of the cache, least recently used first."""
    found = []
    for folder in (path for path in root.iterdir() if path.is_dir()):
        for path in (one for one in folder.iterdir() if one.is_dir() and one.name[0] != "."):
            with suppress(OSError):
                found.append(CacheEntry(path, _disk_bytes(path), path.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.used_s)


def remove(entry: CacheEntry) -> None:
    """Remove an entry. A running VM keeps the files that it has open. Raises InputError."""
    with locked(entry.path.parent):
        try:
            shutil.rmtree(entry.path)
        except OSError as error:
            raise InputError(f"{entry.path}: {error.strerror}: remove it yourself") from error


def _disk_bytes(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the `count` newest entries of a cache folder. A running VM keeps its open files."""
    entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
    entries.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for stale in entries[count:]:
        shutil.rmtree(stale, ignore_errors=True)
