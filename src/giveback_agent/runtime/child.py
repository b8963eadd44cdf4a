"""Run code that may hang in a child process that can be abandoned, with bounded time and output.

A Windows program started through interop, or a file on a mounted Windows drive, hangs when the Windows side
does. `subprocess` could do the same, but would stay imported in the service.
"""

from __future__ import annotations

import os
import select
import time

from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn

OUTPUT_LIMIT_BYTES = 256 << 10
KILLED_WAIT_S = 0.5
EXIT_NOT_FOUND = 127
SIGKILL = 9  # the signal module imports enum


class Outcome(Record):
    """The output of a child, and the `reason` of a failure ("" if it succeeded)."""

    output: bytes
    reason: str = ""


def run(
    candidates: Sequence[str],
    arguments: Sequence[str],
    timeout_s: float,
    environ: Mapping[str, str] | None = None,
) -> Outcome:
    """Run the first of `candidates` (paths of one program) that can be executed; return its stdout."""

    def execute() -> bytes:
        for path in candidates:
            try:
                os.execve(path, [path, *arguments], environ or {})  # noqa: S606
            except OSError:
                continue
        os._exit(EXIT_NOT_FOUND)

    return in_child(execute, timeout_s)


def in_child(
    work: Callable[[], bytes], timeout_s: float, limit_bytes: int = OUTPUT_LIMIT_BYTES
) -> Outcome:
    """Fork; return the result of `work` in the child, and what it wrote to its standard output before.

    After `timeout_s` the child and its processes are killed, and not waited for if even that hangs.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        reader, writer = os.pipe()
    except OSError as error:
        return Outcome(b"", f"no pipe: {os.strerror(error.errno or 0)}")
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        return Outcome(b"", f"cannot fork: {os.strerror(error.errno or 0)}")
    if pid == 0:
        _be_child(work, writer)
    os.close(writer)
    try:
        output, reason = _drain(reader, deadline_s, limit_bytes)
    finally:
        os.close(reader)
    alive = bool(reason)
    if not alive:
        reason = _wait(pid, deadline_s)
    if alive or reason == _LATE:
        _kill(pid)
    return Outcome(output, f"no answer within {timeout_s:g} s" if reason == _LATE else reason)


_LATE = "late"


def _be_child(work: Callable[[], bytes], writer: int) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(writer, 1)
        os.dup2(null, 2)
        # An abandoned child must not hold a lock of this process.
        os.closerange(3, 1024)
        rest = work()
        while rest:
            rest = rest[os.write(1, rest) :]
        status = 0
    finally:
        os._exit(status)


def _drain(reader: int, deadline_s: float, limit_bytes: int) -> tuple[bytes, str]:
    chunks: list[bytes] = []
    total = 0
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            return b"".join(chunks), _LATE
        chunk = os.read(reader, 65536)
        if not chunk:
            return b"".join(chunks), ""
        total += len(chunk)
        if total > limit_bytes:
            return b"", f"more than {limit_bytes} bytes of output"
        chunks.append(chunk)


def _wait(pid: int, deadline_s: float) -> str:
    """Reap the child and return the reason of its failure, or ""."""
    while True:
        try:
            reaped, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # if SIGCHLD is ignored, the kernel reaps the child
            return ""
        if reaped:
            code = os.waitstatus_to_exitcode(status)
            if code == EXIT_NOT_FOUND:
                return "not found, or not executable here"
            return f"exit status {code}" if code else ""
        if time.monotonic() > deadline_s:
            return _LATE
        time.sleep(0.002)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    _wait(pid, time.monotonic() + KILLED_WAIT_S)
