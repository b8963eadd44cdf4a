"""Start paused real QEMUs, wait for them, and describe them."""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peers import emulator, environment_of

from giveback.host.procs import Process, read_process
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import VmDescription

if TYPE_CHECKING:
    from collections.abc import Iterator


_SERVED = re.compile(r"\bsocket,[^ ]*path=([^, ]+),server=on,wait=off")


def program_words() -> list[str]:
    """Return the lab's QEMU with the arguments by which it finds its firmware."""
    qemu = emulator()
    return [str(qemu.program), *qemu.arguments]


@contextmanager
def running(directory: Path, *words: str, machine: str = "q35") -> Iterator[Process]:
    """Run a paused QEMU whose monitor listens at `directory`/qmp."""
    given = [word.replace("{dir}", str(directory)) for word in words]
    typed = [] if "-M" in given else ["-M", machine]
    command = [*program_words(), "-S", "-nodefaults", "-display", "none", "-accel", "tcg", *typed]
    command += ["-qmp", f"unix:{directory}/qmp,server=on,wait=off", *given]
    with (directory / "log").open("wb") as log:
        qemu = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=environment_of(emulator()),
        )  # fmt: skip
    try:
        wait_for_socket(directory / "qmp", qemu, directory / "log")
        for path in _SERVED.findall(" ".join(given)):
            wait_for_path(Path(path), qemu, directory / "log")
        process = read_process("/", qemu.pid)
        assert process is not None
        yield process
    finally:
        qemu.kill()
        qemu.wait()


def wait_for_path(path: Path, qemu: subprocess.Popen[bytes], log: Path) -> None:
    """QEMU makes its sockets one after the other, and the monitor's may be the first."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert qemu.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"QEMU made no {path} in 30 s"
        time.sleep(0.01)


def wait_for_socket(path: Path, qemu: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while not is_listening(path):
        assert qemu.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "QEMU opened no monitor in 30 s"
        time.sleep(0.01)


def is_listening(path: Path) -> bool:
    """Wait until a socket accepts connections, which is somewhat later than its file appears."""
    accepting = "00010000"  # __SO_ACCEPTCON
    for line in Path("/proc/net/unix").read_text().splitlines():
        words = line.split()
        # A socket that was bound by a relative path has that path as its name.
        names = (str(path), path.name)
        if len(words) == 8 and words[3] == accepting and words[7] in names:
            return path.exists()
    return False


def described(process: Process) -> VmDescription:
    vm = QemuBackend().recognise(process)
    assert vm is not None
    return vm
