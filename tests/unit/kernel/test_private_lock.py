"""A lock that no other user can hold, whatever is at its path."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from giveback_kernel import private_lock
from giveback_kernel.errors import KernelFileError


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lock")


def test_one_process_holds_it_and_its_end_releases_it(path: str) -> None:
    program = (
        "import sys; from giveback_kernel import private_lock\n"
        "print(private_lock.take(sys.argv[1]), flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip().isdigit()
        assert private_lock.take(path) is None
        holder.kill()
        fd = private_lock.take(path, wait_s=60.0)
    assert fd is not None
    os.close(fd)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_only_its_owner_can_open_it(path: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        fd = private_lock.take(path)
    finally:
        os.umask(before)
    assert fd is not None
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.close(fd)


def test_a_file_that_others_could_open_is_closed_to_them(path: str) -> None:
    Path(path).touch(0o666)
    fd = private_lock.take(path)
    assert fd is not None
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.close(fd)


def test_what_is_no_file_of_ours_is_refused_at_once(path: str, tmp_path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(KernelFileError, match="not a regular file"):
        private_lock.take(path)
    Path(path).unlink()
    Path(path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KernelFileError):
        private_lock.take(path)
    assert not (tmp_path / "elsewhere").exists()
    Path(path).unlink()
    Path(path).mkdir()
    with pytest.raises(KernelFileError):
        private_lock.take(path)
    with pytest.raises(KernelFileError, match="No such file"):
        private_lock.take(str(tmp_path / "none" / "lock"))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_another_users_file_is_refused(path: str) -> None:
    Path(path).touch()
    os.chown(path, 65534, 65534)
    with pytest.raises(KernelFileError, match="belongs to uid 65534: remove it"):
        private_lock.take(path)


def test_a_file_that_is_replaced_meanwhile_counts_for_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def replaced(*args: object) -> int:
        monkeypatch.setattr(os, "open", opened)
        fd = opened(*args)  # type: ignore[arg-type]
        Path(path).unlink()
        return fd

    monkeypatch.setattr(os, "open", replaced)
    fd = private_lock.take(path)
    assert fd is not None
    assert os.fstat(fd).st_ino == Path(path).stat().st_ino
    private_lock.remove(path, fd)
    assert not Path(path).exists()


def test_a_removed_lock_leaves_its_successor_alone(path: str) -> None:
    fd = private_lock.take(path)
    assert fd is not None
    Path(path).unlink()
    other = private_lock.take(path)
    assert other is not None
    private_lock.remove(path, fd)
    assert Path(path).exists()
    with pytest.raises(BlockingIOError):
        fcntl.flock(opened := os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(opened)
    os.close(other)
