"""A path of a process is opened within its root and never outside."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from giveback.host import own_root, owners, procs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")


@contextmanager
def jailed(jail: Path) -> Iterator[int]:
    """A process whose root is the folder `jail`, and whose working folder is `work` in it."""
    program = (
        "import os, sys; os.chroot(sys.argv[1]); os.chdir('/work'); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program, str(jail)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid


def contents(pid: int, path: str) -> bytes:
    place = own_root.open_within("/", pid, path)
    try:
        with open(f"/proc/self/fd/{place}", "rb") as file:  # noqa: PTH123
            return file.read()
    finally:
        os.close(place)


@needs_root
def test_no_symbolic_link_leads_out_of_the_root(tmp_path: Path) -> None:
    jail = tmp_path / "jail"
    (jail / "work").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"outside")
    (jail / "secret").write_bytes(b"inside")
    (jail / "link").symlink_to(tmp_path / "secret")
    (jail / "work/up").symlink_to("../../../secret")
    with jailed(jail) as pid:
        assert contents(pid, "/secret") == b"inside"
        assert contents(pid, "/work/up") == b"inside"
        assert contents(pid, "up") == b"inside"
        assert contents(pid, "../../../../secret") == b"inside"
        with pytest.raises(FileNotFoundError):
            own_root.open_within("/", pid, "/link")
        assert procs.read_own_file("/", pid, "/link", 100) is None
        assert procs.read_own_file("/", pid, "../../secret", 100) == b"inside"


def test_no_magic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "own").symlink_to(f"/proc/{os.getpid()}/root/etc")
    for path in (f"{tmp_path}/own", f"/proc/{os.getpid()}/exe"):
        with pytest.raises(OSError, match="symbolic links"):
            own_root.open_within("/", os.getpid(), path)
    with pytest.raises(ValueError, match="NUL"):
        own_root.open_within("/", os.getpid(), "/a\0b")


@pytest.mark.parametrize("path", ["/run/q.sock", "q.sock", "/a\nb", "/proc/8/root/x"])
def test_an_address_names_its_process(path: str) -> None:
    assert own_root.named_by(procs.own_path("/", 7, path)) == (7, path)
    assert own_root.named_by(procs.own_path("/tmp/fake", 7, path)) == (7, path)


def test_an_address_without_a_process() -> None:
    assert own_root.named_by("/run/q.sock") is None
    assert own_root.named_by("/proc/self/root/x") is None


def test_the_uids_of_a_process() -> None:
    uids = os.getresuid()
    assert owners.read_uids("/", os.getpid())[:3] == uids
    assert owners.read_uids("/", 4_194_305) == ()
    assert owners.parse_uids(b"Name:\ta\\nUid:\t0\nUid:\t1\t2\t3\t4\nUid:\t0\n") == (1, 2, 3, 4)
    assert owners.parse_uids(b"") == ()
