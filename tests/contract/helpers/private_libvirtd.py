"""A separate unprivileged libvirtd for a test, with paused domains."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from giveback.host.procs import processes
from giveback.vmm.backends.libvirt import LibvirtBackend
from giveback.vmm.base import VmDescription

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
MISSING = [name for name in ("libvirtd", "qemu-system-x86_64", "setpriv") if not shutil.which(name)]
libvirt = pytest.importorskip("libvirt", reason="libvirt-python is not installed")


@dataclass(frozen=True)
class Daemon:
    uri: str
    home: Path


@contextlib.contextmanager
def session_daemon() -> Iterator[Daemon]:
    """Run libvirtd in session mode with its own home, runtime folder and socket."""
    home = Path(tempfile.mkdtemp(prefix="giveback-libvirt-"))
    (home / "config/libvirt").mkdir(parents=True)
    (home / "run").mkdir()
    (home / "config/libvirt/qemu.conf").write_text('stdio_handler = "file"\n')
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
    }
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "libvirtd"]
    with (home / "log").open("wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        socket = home / "run/libvirt/libvirt-sock"
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert child.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, "libvirtd opened no socket in 30 s"
            time.sleep(0.02)
        yield Daemon(f"qemu:///session?socket={socket}", home)
    finally:
        child.terminate()
        child.wait()
        shutil.rmtree(home)


@contextlib.contextmanager
def paused_domain(daemon: Daemon, xml: str, name: str) -> Iterator[VmDescription]:
    """Run a paused guest; yield its process as libvirt started it."""
    connection = libvirt.open(daemon.uri)
    made = connection.defineXML(xml.format(emulator=shutil.which("qemu-system-x86_64")))
    made.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        backend = LibvirtBackend(uri=daemon.uri)
        found = [backend.recognise(process) for process in processes()]
        (vm,) = [vm for vm in found if vm is not None and vm.name == name]
        yield vm
    finally:
        made.destroy()
        made.undefine()
        connection.close()
