"""The libvirtd of a domain, on a fake /proc."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from giveback.host.procs import Process
from giveback.vmm.backends.libvirt import LibvirtBackend
from giveback.vmm.backends.libvirt_session import session_uri

if TYPE_CHECKING:
    from pathlib import Path

FD = "socket,id=charmonitor,fd=3,server=on,wait=off"
KEY = '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"%s/domain-1-a/master-key.aes"}'


def domain(folder: str) -> Process:
    words = ("-name", "guest=a", "-m", "1G", "-object", KEY % folder, "-chardev", FD)
    return Process(7, ("/usr/bin/qemu-system-x86_64", *words, "-mon", "charmonitor,mode=control"))


SESSION = domain("/home/u/.config/libvirt/qemu/lib")
SYSTEM = domain("/var/lib/libvirt/qemu")


def host(root: Path, *paths: str, flags: str = "00010000") -> str:
    (root / "proc/net").mkdir(parents=True)
    (root / "proc/7").mkdir()
    rows = ["Num RefCount Protocol Flags Type St Inode Path"]
    for number, path in enumerate(paths):
        rows.append(f"{number:016x}: 00000002 00000000 {flags} 0001 01 {number} {path}")
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (root / "proc/net/unix").write_text("\n".join(rows) + "\n")
    return str(root)


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        (("/run/user/0/libvirt/libvirt-sock",), "/run/user/0/libvirt/libvirt-sock"),
        (("/home/u/.cache/libvirt/libvirt-sock",), "/home/u/.cache/libvirt/libvirt-sock"),
        (("/a/libvirt/libvirt-sock", "/a/libvirt/virtqemud-sock"), "/a/libvirt/virtqemud-sock"),
        (("/a b/libvirt/libvirt-sock",), "/a%20b/libvirt/libvirt-sock"),
    ],
)
def test_the_socket_of_the_users_daemon(
    paths: tuple[str, ...], chosen: str, tmp_path: Path
) -> None:
    assert session_uri(host(tmp_path, *paths), SESSION) == f"qemu:///session?socket={chosen}"


def test_other_sockets_are_not_mistaken_for_it(tmp_path: Path) -> None:
    root = host(
        tmp_path, "/a/libvirt/libvirt-sock-ro", "/a/other/libvirt-sock", "/tmp/libvirt-sock"
    )
    assert session_uri(root, SESSION) == "qemu:///session"
    assert session_uri(root, SYSTEM) == ""
    assert session_uri("/nonexistent", SESSION) == "qemu:///session"


def test_another_users_daemon_is_not_asked(tmp_path: Path) -> None:
    root = host(tmp_path, "/a/libvirt/libvirt-sock")
    if os.geteuid():
        pytest.skip("only root may give a file to another user")
    os.chown(tmp_path / "a/libvirt/libvirt-sock", 65534, 65534)
    assert session_uri(root, SESSION) == "qemu:///session"


def test_a_domain_of_any_user_belongs_to_libvirt() -> None:
    for process, control in ((SESSION, "qemu:///session"), (SYSTEM, "")):
        vm = LibvirtBackend("/nonexistent").recognise(process)
        assert vm is not None
        assert (vm.backend, vm.control) == ("libvirt", control)


def test_old_versions_of_libvirt_show_the_monitors_path(tmp_path: Path) -> None:
    words = list(SYSTEM.argv)
    own = "socket,id=charmonitor,path=/var/lib/libvirt/qemu/domain-1-a/monitor.sock,server,nowait"
    old = Process(7, tuple(own if word == FD else word for word in words))
    vm = LibvirtBackend(str(tmp_path)).recognise(old)
    assert vm is not None
    assert (vm.backend, vm.control) == ("libvirt", "")
    more = Process(7, (*SYSTEM.argv, "-qmp", "unix:/mine,server"))
    assert LibvirtBackend(str(tmp_path)).recognise(more) is None
