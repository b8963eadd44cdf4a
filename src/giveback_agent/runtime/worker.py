"""Run one kernel write where it can be abandoned: a forked child at SCHED_IDLE.

A writer of `compact_memory` or `memory.reclaim` pays for the work in its own context and may be away
for minutes. In a child it uses idle CPU only, and the service goes on watching; a child that takes
too long, or is no longer wanted, is killed (both kernel paths end at a fatal signal).
"""

from __future__ import annotations

import os
import time

from giveback_agent.runtime import signals
from giveback_kernel.errors import KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DONE = 0
FAILED = 1
CRASHED = 2
CLOSED_BELOW = 1024
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# A killed process that is still there after this long waits for something in the kernel.
KILLED_WAIT_S = 10.0


def become_idle_class() -> bool:
    """Put this process under SCHED_IDLE: it then runs only when nothing else wants the CPU."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        try:
            os.nice(19)
        except OSError:
            return False
    return True


def become_normal_class() -> bool:
    """Leave SCHED_IDLE: a host that starves cannot wait until a busy guest has nothing else to do.

    Needs RLIMIT_NICE of 20 or CAP_SYS_NICE (sched_setscheduler(2)); False where it is refused.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        return False
    return True


class Worker:
    """One forked step. `poll` until it says how it ended, or `abandon` it."""

    def __init__(
        self,
        kind: str,
        step: Callable[[], None],
        started_s: float,
        deadline_s: float,
        kept_fd: int = -1,
        pressing: bool = False,
    ) -> None:
        """Fork and run `step` in the child, which has no file of ours but `kept_fd`.

        `pressing`: it stays in the class of its parent instead of SCHED_IDLE.

        Raises OSError where the kernel refuses a process.
        """
        self.kind = kind
        self.started_s = started_s
        self.deadline_s = deadline_s
        self.abandoned = False
        self.cpu_s = self.user_s = 0.0
        self._parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(step, kept_fd, pressing)

    def _run(self, step: Callable[[], None], kept_fd: int, pressing: bool) -> None:
        code = CRASHED
        try:
            for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGUSR1):
                signals.signal(number, signals.SIG_DFL)
            signals.set_wakeup_fd(-1)
            # A worker that hangs in the kernel must not hold the agent's lock after the agent's end.
            os.closerange(3, max(3, kept_fd))
            os.closerange(max(3, kept_fd + 1), CLOSED_BELOW)
            if not pressing:
                become_idle_class()
            step()
            code = DONE
        except (KernelFileError, OSError, ValueError, MemoryError):
            code = FAILED
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """None while it runs; then its exit code, or minus the signal that ended it."""
        try:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            return CRASHED
        if pid == 0:
            return None
        self.user_s = usage.ru_utime
        self.cpu_s = usage.ru_utime + usage.ru_stime
        if os.WIFSIGNALED(status):
            return -os.WTERMSIG(status)
        return os.WEXITSTATUS(status)

    def wait(self, most_s: float) -> None:
        """Wait at most `most_s` for its end, which reaps it: `poll` has no exit code to tell afterwards."""
        until_s = time.monotonic() + most_s
        while self.poll() is None and time.monotonic() < until_s:
            time.sleep(0.005)

    def overdue(self, now_s: float) -> bool:
        """True once it has had its time."""
        return now_s - self.started_s > self.deadline_s

    def is_lost(self, now_s: float) -> bool:
        """True where it was killed and has not ended long after its time."""
        return self.abandoned and now_s - self.started_s > self.deadline_s + KILLED_WAIT_S

    def abandon(self) -> None:
        """Kill it; it ends at the kernel's next check for a fatal signal, and `poll` then says so."""
        self.abandoned = True
        try:
            os.kill(self.pid, signals.SIGKILL)
        except ProcessLookupError:
            pass


def cpu_s_of(root: str, pid: int) -> tuple[float, float]:
    """User and system CPU seconds of a running worker, from its stat file; 0 where it has ended."""
    try:
        with open(root.rstrip("/") + f"/proc/{pid}/stat", "rb") as file:
            words = file.read(4096).rpartition(b")")[2].split()
        return int(words[11]) / TICKS_PER_S, int(words[12]) / TICKS_PER_S
    except (OSError, IndexError, ValueError):
        return 0.0, 0.0
