"""Kill what changes the report order at any one line. tests/vm runs this very file in a real guest."""

import os
import signal
import sys

from giveback_agent import deep_report

# Where anything is written; the parsers only read.
WRITERS = ("deep_report.py", "files.py", "page_reporting.py", "runtime.py")


def killed_at_line(root: str, number: int, orders: "tuple[int, ...]") -> bool:
    """Lower to each order and restore, in a child killed at its `number`-th line; False where it ended."""
    pid = os.fork()
    if pid == 0:
        left = number

        def trace(frame, event, argument):  # type: ignore[no-untyped-def]  # noqa: ANN001
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
            for order in orders:
                deep_report.lower(root, order)
            deep_report.restore(root)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
