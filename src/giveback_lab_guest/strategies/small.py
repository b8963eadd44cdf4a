"""Restart a strategy's process as a smaller one, so that Python's memory does not dominate the figures.

`giveback_agent.runtime.reexec` does the same for the agent: run from compiled files, without `site`
and without huge pages. The originals are C++, Rust and Perl, and are smaller still.
"""

from __future__ import annotations

import os
import sys

from giveback_agent.runtime import reexec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = "/run/giveback-lab.d"
MARK = "GIVEBACK_LAB_STARTED"
LAUNCHER = FOLDER + "/strategy.py"
LAUNCHER_TEXT = f"""import sys
sys.path.insert(0, {FOLDER!r})
from giveback_lab_guest.strategies import strategy
sys.exit(strategy(sys.argv[2:]))
"""


def start_anew(words: list[str]) -> None:
    """Replace this process by a smaller one with `words`; return if it is small already, or on failure.

    The first strategy of a guest unpacks for all: the archive does not change while a guest runs.
    """
    archive = reexec.zip_archive()
    if os.environ.get(MARK) or archive is None:
        return
    if not os.path.exists(LAUNCHER) and not _in_child(lambda: _unpack(archive)):
        return
    _refuse_huge_pages()
    # The second mark keeps the agent's own service from restarting here: it is small already.
    environment = {**os.environ, MARK: "1", reexec.MARK: "1"}
    command = [sys.executable, reexec.OPTIONS, LAUNCHER, *words]
    os.execve(sys.executable, command, environment)  # noqa: S606  # our own interpreter


def _unpack(archive: str) -> None:
    reexec.compile_into(archive, FOLDER)
    with open(LAUNCHER + ".new", "w") as file:
        file.write(LAUNCHER_TEXT)
    os.rename(LAUNCHER + ".new", LAUNCHER)


def _in_child(work: Callable[[], None]) -> bool:
    """Call `work` in a child process, whose memory ends with it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _refuse_huge_pages() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(reexec.PR_SET_THP_DISABLE, 1, 0, 0, 0)
