"""Run programs of the host's distribution from their unpacked packages, without installing them."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from giveback.errors import InputError
from giveback_lab.packages.apt import Apt, tree, tree_alone
from giveback_lab.packages.architecture import host_architecture


@dataclass(frozen=True, slots=True)
class Program:
    """A program, and the environment variables that it needs in addition to the caller's.

    `files` is the folder that its package was unpacked into, or None if the program is installed.
    """

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    files: Path | None = None


@functools.cache
def packaged_program(package: str, name: str, *, static: bool = False) -> Program:
    """Return the program `name`: the installed one, else the one in the distribution's `package`.

    A `static` program needs no other package. Raises InputError if it can be neither found nor
    fetched.
    """
    installed = shutil.which(name)
    if installed:
        return Program(Path(installed))
    files = tree_alone(package) if static else tree(Apt(), (package,))
    libraries = files / "usr/lib" / host_architecture().triplet
    environment = {} if static else {"LD_LIBRARY_PATH": f"{libraries}:{libraries}/systemd"}
    for folder in ("usr/bin", "usr/sbin"):
        path = files / folder / name
        if path.is_file():
            return Program(path, environment, files)
    raise InputError(f"{package}: the package has no program {name}")
