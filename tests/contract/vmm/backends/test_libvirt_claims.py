"""A reader process checks claims about libvirt: neither event loop nor thread waits for the paths."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import stuck_fuse
from strangers import MALLORY, VICTIM, needs_root, open_folder, stranger

from giveback.errors import VmError
from giveback.host.readers import pool
from giveback.vmm.backends.libvirt_domain import claim

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(needs_root(), reason="only root can be several users")
on_fuse = pytest.mark.skipif(not stuck_fuse.usable(), reason="needs root and /dev/fuse")


@pytest.fixture
def folder() -> Iterator[Path]:
    # A new pool: processes that hang here are not recorded against the users of other tests.
    pool.shared().close()
    pool.shared.cache_clear()
    with open_folder() as found:
        yield found
    pool.shared().close()
    pool.shared.cache_clear()


def claimed(uri: str, pid: int) -> frozenset[int] | None:
    async def ask() -> frozenset[int] | None:
        found = await claim(uri, pid)
        try:
            return found.ids
        finally:
            found.close()

    return asyncio.run(ask())


def domain_folder(folder: Path, domain_id: int, uid: int) -> Path:
    """Make libvirt's folders of the user `uid` for the monitor of one domain; return the innermost."""
    place = folder / f"libvirt/qemu/lib/domain-{domain_id}-one"
    place.mkdir(parents=True)
    for one in (place, *list(place.parents)[:3]):
        os.chown(one, uid, uid)
    return place


def test_the_monitors_of_a_process_identify_its_domains(folder: Path) -> None:
    monitor = domain_folder(folder, 7, VICTIM) / "monitor.sock"
    with stranger(folder / "log", ["qemu-kvm"], uid=VICTIM, listen=(str(monitor),)) as vm:
        assert claimed("qemu:///session", vm.pid) == frozenset({7})
        assert claimed("qemu:///system", vm.pid) == frozenset(), "its libvirt is not root's"
    with stranger(folder / "log", ["qemu-kvm"], uid=MALLORY) as other:
        assert claimed("qemu:///session", other.pid) == frozenset()


def test_a_sessions_socket_is_pinned(folder: Path) -> None:
    place = folder / "virtqemud-sock"

    with stranger(folder / "log", ["qemu-kvm"], uid=VICTIM, listen=(str(place),)) as vm:
        found = asyncio.run(claim(f"qemu:///session?socket={place}", vm.pid))
        path = Path(found.uri.partition("socket=")[2])
        place.unlink()
        assert path.parent == Path("/proc/self/fd")
        assert stat.S_ISSOCK(path.stat().st_mode)
        found.close()
        assert not path.exists()


@on_fuse
def test_a_monitor_whose_path_never_answers_costs_a_reader(folder: Path) -> None:
    monitor = domain_folder(folder / "top/hang", 7, VICTIM) / "monitor.sock"
    for one in (folder / "top", folder / "top/hang"):
        one.chmod(0o755)
    with stranger(folder / "log", ["qemu-kvm"], uid=VICTIM, listen=(str(monitor),)) as vm:
        # The name leads to the file system that is mounted over the folder later.
        (folder / "top").rename(folder / "before")
        with (
            stuck_fuse.mounted(folder / "top"),
            pytest.raises(VmError, match="reader did not answer"),
        ):
            claimed("qemu:///session", vm.pid)


@on_fuse
def test_a_sessions_socket_whose_path_never_answers_costs_a_reader(folder: Path) -> None:
    with (
        stuck_fuse.mounted(folder / "stuck") as stuck,
        stranger(folder / "log", ["qemu-kvm"], uid=VICTIM) as vm,
    ):
        with pytest.raises(VmError, match="reader did not answer"):
            claimed(f"qemu:///session?socket={stuck}/hang", vm.pid)
        assert not [one for one in threading.enumerate() if one.name.startswith("libvirt")]
