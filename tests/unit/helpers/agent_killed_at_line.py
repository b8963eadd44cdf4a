"""Kill what changes the kernel at any one line. tests/vm runs this very file in a real guest."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

# Where anything is written; the parsers only read.
WRITERS = (
    "cpu_weight.py", "files.py", "live_protection.py", "memory_high.py", "memory_limits.py",
    "page_reporting.py", "percpu_lists.py", "report_order.py", "run_dir.py", "saved_value.py",
)  # fmt: skip


def killed_at_line(number: int, work: Callable[[], object]) -> bool:
    """Do `work` in a child killed at its `number`-th line; False where it got to the end."""
    pid = os.fork()
    if pid == 0:
        left = number

        def trace(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ANN401  # the interpreter's own type
            nonlocal left
            del argument
            if frame.f_code.co_filename.rpartition("/")[2] not in WRITERS:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
