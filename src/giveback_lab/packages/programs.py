"""Programs of the host's distribution, run from where they are unpacked: nothing is installed."""

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
    """A program and what its environment needs beside the caller's.

    `files` is the folder that its package was unpacked into; None where it is installed.
    """

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    files: Path | None = None


@functools.cache
def packaged_program(package: str, name: str, *, static: bool = False) -> Program:
    """The program `name`: the installed one, else the one in the distribution's `package`.

    A `static` one needs no other package. Raises InputError where it can be neither found nor fetched.
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
