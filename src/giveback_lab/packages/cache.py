"""The user's cache folder: what the lab builds once and finds again by its content's key."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/giveback`, else `~/.cache/giveback`; created. Raises InputError."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = Path(base).expanduser() / "giveback"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{root}: {error.strerror}: set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return root


def content_key(*parts: str | bytes) -> str:
    """A short name for exactly this content: 16 hex digits of SHA-256 over the framed parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two builds of the same thing wait for each other."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes `target` when the block ends well, else vanishes.

    A build that is killed leaves no half-made `target`; its scratch folder is swept next time.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the `count` newest entries of a cache folder; what a VM has open lives on."""
    entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
    entries.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for stale in entries[count:]:
        shutil.rmtree(stale, ignore_errors=True)
