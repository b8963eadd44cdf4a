"""A real `giveback demo` as a user starts it, with all that it leaves in sight."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL = ("--no-compare", "--mem", "512M", "--scale", "0.5", "--accel", "tcg", "--cpus", "1")
DEADLINE_S = 150.0


def wait_for(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return when `condition` holds; fail when it does not within the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {deadline_s:.0f} s"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether there is a process that is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


class DemoProcess:
    """One demo; `output` is all that it has printed so far, stderr included."""

    def __init__(self, root: Path, *words: str) -> None:
        self.root = root
        self.temporary, self.out = root / "t", root / "out"
        self.temporary.mkdir(exist_ok=True)
        self._log = root / "output"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "giveback", "demo", *SMALL, "--out", self.out, *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=root,
                env={**os.environ, "TMPDIR": str(self.temporary), "COLUMNS": "200"},
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def last_line(self) -> str:
        return self.output.splitlines()[-1]

    def qemus(self) -> list[int]:
        """The process ids of the QEMUs whose sockets are in this demo's temporary folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"qemu" in command and os.fsencode(self.temporary) in command:
                    found.append(int(entry.name))
        return found

    def wait_until_it_says(self, words: str) -> None:
        """Wait for words in the output; fail where the demo ends without them."""
        wait_for(
            lambda: words in self.output or self.process.poll() is not None, f"{words!r} in output"
        )
        assert words in self.output, self.output

    def qemu(self) -> int:
        """The process id of its one QEMU, once its guest's kernel has begun to speak."""
        logs = self.temporary.glob
        wait_for(
            lambda: (
                any(log.stat().st_size for log in logs("giveback-vm-*/serial.log"))
                or self.process.poll() is not None
            ),
            "the guest's first words",
        )
        (pid,) = self.qemus()
        return pid

    def ended(self) -> int:
        """Its exit code, once it has ended; then nothing of it may be left."""
        code = self.process.wait(DEADLINE_S)
        wait_for(lambda: not self.qemus(), "QEMU's end", 10)
        assert list(self.temporary.iterdir()) == [], "left in the temporary folder"
        assert "Traceback" not in self.output, self.output
        return code

    def kill_all(self) -> None:
        """Whatever a failed test leaves."""
        for pid in (self.process.pid, *self.qemus()):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def demo_process(root: Path, *words: str) -> Iterator[DemoProcess]:
    """A running demo, ended with the block."""
    demo = DemoProcess(root, *words)
    try:
        yield demo
    finally:
        demo.kill_all()
