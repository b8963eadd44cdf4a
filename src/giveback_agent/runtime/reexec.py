"""Start the service with little memory: from compiled files, without `site`, without huge pages.

Run from the zip, every module is compiled at each start, and Python keeps the compiler's memory: 6.8 MiB
private dirty, against 3.6 MiB from compiled files (CPython 3.11). With transparent huge pages always on, a
heap of 1 MiB takes 2 MiB. So `run` writes its compiled modules to a folder under /run (0.4 MiB), disables
huge pages for itself, and executes itself again: both persist over exec, the memory used for them does not.
"""

from __future__ import annotations

import os
import sys

from giveback_agent.runtime import run_dir
from giveback_kernel import files

FOLDER = run_dir.FOLDER + "/lib"
# The interpreter's options: isolated, no .pyc beside the modules, no site.
OPTIONS = "-IBS"
# Set in the environment of the second process, so that it does not do so again.
MARK = "GIVEBACK_AGENT_STARTED"
PR_SET_THP_DISABLE = 41
# A file, not the folder: for a folder the interpreter imports runpy, 2.5 MiB with its dependencies.
LAUNCHER = "launch.py"
LAUNCHER_TEXT = """import sys
sys.path.insert(0, {folder!r})
from giveback_agent.__main__ import main
sys.exit(main())
"""


def zip_archive() -> str | None:
    """Return the archive that this code runs from, or None if it runs from files."""
    here = os.path.abspath(__file__)
    if os.path.exists(here):
        return None
    while len(here) > 1:
        here = os.path.dirname(here)
        if os.path.isfile(here):
            return here
    return None


def replace_process(root: str, words: list[str]) -> None:
    """Replace this process by a smaller one. Return if that was done before, or is not possible."""
    if os.environ.get(MARK) or not sys.executable:
        return
    archive = zip_archive()
    if archive is None:
        command = _own_command()
    else:
        folder = files.under(root, FOLDER)
        launcher = f"{folder}/{LAUNCHER}"
        command = [sys.executable, OPTIONS, launcher, *words] if _unpack(archive, folder) else []
    if not command:
        return
    _refuse_huge_pages()
    try:
        os.execve(sys.executable, command, {**os.environ, MARK: "1"})  # noqa: S606
    except OSError:
        return


def _own_command() -> list[str]:
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


def _refuse_huge_pages() -> None:
    """Disable transparent huge pages by prctl(PR_SET_THP_DISABLE), which persists over exec."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return


def _unpack(archive: str, folder: str) -> bool:
    """Compile into `folder` in a child process, whose memory ends with it; return whether it worked."""
    try:
        child = os.fork()
    except OSError:
        return False
    if child == 0:
        code = 1
        try:
            compile_into(archive, folder)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return status == 0


def compile_into(archive: str, folder: str) -> None:
    """Write every module of the archive as a compiled file, replacing the folder.

    Sets this process's umask: root runs these files, so no other user may write them.
    """
    import marshal
    import shutil
    import zipfile
    from importlib.util import MAGIC_NUMBER

    os.umask(0o022)
    scratch = f"{folder}.new"
    shutil.rmtree(scratch, ignore_errors=True)
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            if not name.endswith(".py") or name.startswith("/") or ".." in name.split("/"):
                continue
            # Without docstrings, which the service would hold in memory.
            code = compile(packed.read(name), name, "exec", dont_inherit=True, optimize=2)
            target = f"{scratch}/{name}c"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                # PEP 552: no flags, no source time, no source size: nothing is compared.
                file.write(MAGIC_NUMBER + bytes(12) + marshal.dumps(code))
    with open(f"{scratch}/{LAUNCHER}", "w") as file:
        file.write(LAUNCHER_TEXT.format(folder=folder))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(scratch, folder)
