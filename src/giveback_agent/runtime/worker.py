"""Run a kernel write that can be abandoned, in a forked child at SCHED_IDLE.

A write to `compact_memory` or `memory.reclaim` does its work in the context of the writer and may take
minutes. In a child it uses idle CPU only, and the service continues. A child that takes too long, or is no
longer wanted, is killed (both kernel paths end at a fatal signal).
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
# A killed process that still exists after this long is blocked in the kernel.
KILLED_WAIT_S = 10.0


def become_idle_class() -> bool:
    """Set SCHED_IDLE for this process, so that it uses only idle CPU; return whether that worked."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        try:
            os.nice(19)
        except OSError:
            return False
    return True


def become_normal_class() -> bool:
    """Leave SCHED_IDLE: at urgency 3 the host cannot wait for idle CPU. Return whether that worked.

    It needs an RLIMIT_NICE of 20 or CAP_SYS_NICE (sched_setscheduler(2)).
    """
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        return False
    return True


class Worker:
    """A step in a forked child. Call `poll` until it returns an exit code, or `abandon` it."""

    def __init__(
        self,
        kind: str,
        step: Callable[[], None],
        started_s: float,
        deadline_s: float,
        kept_fd: int = -1,
        pressing: bool = False,
    ) -> None:
        """Fork and run `step` in the child, which keeps no open file of the parent except `kept_fd`.

        `pressing`: the child keeps its parent's scheduling class instead of SCHED_IDLE. Raises OSError if
        the kernel refuses to fork.
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
            # A worker that hangs in the kernel must not hold the agent's lock after the agent has ended.
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
        """Return None while it runs, then its exit code, or minus the number of the signal that ended it."""
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
        """Wait at most `most_s` for its end and reap it: `poll` does not return its exit code afterwards."""
        until_s = time.monotonic() + most_s
        while self.poll() is None and time.monotonic() < until_s:
            time.sleep(0.005)

    def overdue(self, now_s: float) -> bool:
        """Tell whether it is over its deadline."""
        return now_s - self.started_s > self.deadline_s

    def is_lost(self, now_s: float) -> bool:
        """Tell whether it was killed, but has not ended KILLED_WAIT_S after its deadline."""
        return self.abandoned and now_s - self.started_s > self.deadline_s + KILLED_WAIT_S

    def abandon(self) -> None:
        """Kill it. It ends at the kernel's next check for a fatal signal; `poll` then returns its end."""
        self.abandoned = True
        try:
            os.kill(self.pid, signals.SIGKILL)
        except ProcessLookupError:
            pass


def cpu_s_of(root: str, pid: int) -> tuple[float, float]:
    """Return the user and system CPU seconds of a running worker, from its stat file; 0 if it has ended."""
    try:
        with open(root.rstrip("/") + f"/proc/{pid}/stat", "rb") as file:
            words = file.read(4096).rpartition(b")")[2].split()
        return int(words[11]) / TICKS_PER_S, int(words[12]) / TICKS_PER_S
    except (OSError, IndexError, ValueError):
        return 0.0, 0.0
