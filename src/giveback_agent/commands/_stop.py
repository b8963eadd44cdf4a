"""Stop the agent that an installed command runs, whatever started it, and restore the kernel's settings."""

from __future__ import annotations

import os
import signal
import time

from giveback_agent.commands.repair import restore
from giveback_agent.errors import AgentError
from giveback_agent.runtime import run_dir
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

STOP_WAIT_S = 60.0


def stop(root: str, launcher: str) -> tuple[str, ...]:
    """Stop the agent that `launcher`, a path, runs; return what was done, a line each.

    An agent of another origin is left alone. Raises AgentError if it does not end.
    """
    pid = run_dir.running_pid(root)
    if pid is not None and _is_launched(pid, launcher):
        _end(root, pid)
        pid = run_dir.running_pid(root)
    if pid is not None:
        return (f"another agent runs, pid {pid}, not from {launcher}: left alone",)
    return tuple(f"restored: {what}" for what in restore(root))


def _is_launched(pid: int, launcher: str) -> bool:
    try:
        words = files.read("/", f"/proc/{pid}/cmdline", 65536).split(b"\0")
    except KernelFileError:
        return False
    return launcher.encode() in words


def _end(root: str, pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:
        raise AgentError(f"pid {pid}: {os.strerror(error.errno or 0)}: run this as root") from error
    deadline_s = time.monotonic() + STOP_WAIT_S
    while run_dir.running_pid(root) == pid:
        if time.monotonic() > deadline_s:
            raise AgentError(
                f"pid {pid} has not ended within {STOP_WAIT_S:.0f} s: no file was removed"
            )
        time.sleep(0.1)
