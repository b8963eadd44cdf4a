"""This system with a layer of its own above it, to install packages into: nothing is left on the machine.

No init system runs in it, as in a container, or an image that is being built.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOUNT = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount -t tmpfs tmpfs "$1/root/run"
mount --rbind /dev "$1/root/dev"
# The index of man pages takes a minute, and is of no use here.
rm -f "$1/root/var/lib/man-db/auto-update"
echo ready
exec sleep 3600
"""
_TIMEOUT_S = 180


class OverlayRoot:
    """A root in the mount namespace of a process that holds it."""

    def __init__(self, pid: int, path: Path) -> None:
        self._inside = ("nsenter", "-t", str(pid), "-m", "-p", "chroot", str(path))

    def sh(self, script: str, code: int = 0, environment: dict[str, str] | None = None) -> str:
        """Run a shell script in it, without a terminal or an answer; return what it printed."""
        done = subprocess.run(
            [*self._inside, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=_TIMEOUT_S,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                 "LC_ALL": "C.UTF-8", "HOME": "/root", **(environment or {})},
        )  # fmt: skip
        assert done.returncode == code, f"{script}: {done.returncode}: {done.stdout}"
        return done.stdout

    def put(self, source: Path, path: str) -> None:
        """Copy a file into it."""
        subprocess.run(
            [*self._inside, "sh", "-c", 'cat > "$0"', path],
            input=source.read_bytes(), check=True, timeout=_TIMEOUT_S,
        )  # fmt: skip

    def has(self, path: str) -> bool:
        """Tell whether a file or link is there."""
        return self.sh(f"[ -e {path} ] || [ -L {path} ] && echo yes || echo no").strip() == "yes"


@contextlib.contextmanager
def overlay_root(folder: Path) -> Iterator[OverlayRoot]:
    """A new root for the length of a block; skips where none can be made."""
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("mounts need root")
    holder = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _MOUNT, "sh", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip(f"no overlay can be mounted here: {holder.stderr.read()[:300]}")
        child = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0]
        yield OverlayRoot(int(child), folder / "root")
    finally:
        holder.kill()
        holder.communicate()
