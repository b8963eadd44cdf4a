"""A zip application that becomes a service unpacks itself first: half of its memory is the unpacking.

Run from the zip, every module is compiled at each start and the compiler's memory is never given
back: 6.8 MiB private dirty, against 3.6 from compiled files (CPython 3.11). So `run` writes its
compiled modules to a folder under /run, 0.4 MiB, and starts anew from there without `site`.
"""

from __future__ import annotations

import os
import sys

from giveback_agent import files, runtime

FOLDER = runtime.FOLDER + "/lib"
DEADLINE_S = 120.0
# The interpreter's options: isolated, no .pyc beside them, no site.
OPTIONS = "-IBS"


def zip_archive() -> str | None:
    """The archive that this code runs from, or None where it runs from files."""
    here = os.path.abspath(__file__)
    if os.path.exists(here):
        return None
    while len(here) > 1:
        here = os.path.dirname(here)
        if os.path.isfile(here):
            return here
    return None


def start_anew(root: str, words: list[str]) -> None:
    """Unpack and replace this process; returns only where that was not possible, and then it goes on."""
    archive = zip_archive()
    folder = files.under(root, FOLDER)
    if archive is None or not sys.executable or not _unpack(archive, folder):
        return
    try:
        os.execv(sys.executable, [sys.executable, OPTIONS, folder, *words])  # noqa: S606
    except OSError:
        return


def _unpack(archive: str, folder: str) -> bool:
    """Compile into `folder` in a child, whose memory ends with it; False where it failed."""
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
    """Write every module of the archive as a compiled file; what was there before goes."""
    import marshal
    import shutil
    import zipfile
    from importlib.util import MAGIC_NUMBER

    scratch = f"{folder}.new"
    shutil.rmtree(scratch, ignore_errors=True)
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            if not name.endswith(".py") or name.startswith("/") or ".." in name.split("/"):
                continue
            code = compile(packed.read(name), name, "exec", dont_inherit=True)
            target = f"{scratch}/{name}c"
            os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
            with open(target, "wb") as file:
                # PEP 552: no flags, no source time, no source size: nothing is compared.
                file.write(MAGIC_NUMBER + bytes(12) + marshal.dumps(code))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(scratch, folder)
