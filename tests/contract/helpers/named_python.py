"""Python under another name: what /proc/PID/exe says of a process is the file that it runs."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

ENVIRONMENT = {
    "PYTHONHOME": sys.base_prefix,
    "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR") or ""),
}
"""Python finds its library by where it lies, which is not its own place here."""


STAND_IN = "vmm-stand-in"
"""A name that is no VMM's: its process is a VM only on the host that shows it as one."""


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="giveback-python-"))
    # Other users run what is in it.
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def python_named(program: str) -> str:
    """The path of a Python whose file is called as `program` is, whatever folder that names."""
    return program_named(program, sys.executable)


def program_named(program: str, runs: str) -> str:
    """The path of a file that is called as `program` is, and runs what `runs` does."""
    real = Path(runs).resolve()
    place = _folder() / real.name / program.rpartition("/")[2]
    place.parent.mkdir(exist_ok=True)
    try:
        os.link(real, place)
    except FileExistsError:
        pass
    except OSError:
        shutil.copy2(real, place)
    return str(place)
