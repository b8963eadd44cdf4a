"""A real process of another user that locks every file it can open."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
_LOCKS = f"""
import fcntl, os, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
held = []
for top in sys.argv[1:]:
    for folder, _, names in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            for flags in (os.O_RDWR, os.O_RDONLY):
                try:
                    fd = os.open(path, flags | os.O_NONBLOCK)
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                held.append(fd)
                print(path, flush=True)
                break
print("", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """Make a folder that other users can reach; pytest makes its own folders private at each start."""
    with tempfile.TemporaryDirectory(prefix="giveback-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def locking(*folders: Path) -> Iterator[list[str]]:
    """Have another user hold flock(2) on each file and folder below these; yield their paths."""
    command = [sys.executable, "-I", "-c", _LOCKS, *map(str, folders)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        try:
            yield list(iter(lambda: child.stdout.readline().rstrip("\n"), ""))  # type: ignore[union-attr]
        finally:
            child.kill()
