"""The kernel modules of the guest's first minute: which files, in which order, uncompressed."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

from giveback.errors import InputError
from giveback_lab.packages.apt import Apt, tree
from giveback_lab.packages.architecture import host_architecture


@dataclass(frozen=True, slots=True)
class Module:
    """A module ready to insert: its name with underscores and its uncompressed bytes."""

    name: str
    data: bytes


def ordered_modules(modules_dir: Path, wanted: list[str], optional: frozenset[str]) -> list[Module]:
    """Return the modules `wanted` and their dependencies, each after those that it depends on.

    `modules_dir` is a `/lib/modules/VERSION`. Modules built into the kernel are left out. Raises
    InputError if a module is neither built in nor a file, unless it is in `optional`.
    """
    builtin = _builtin(modules_dir)
    files = {_name(p): p for p in (modules_dir / "kernel").rglob("*.ko*")}
    ordered: dict[str, Module] = {}
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name in builtin:
            return
        seen.add(name)
        if name not in files:
            if name in optional:
                return
            raise InputError(
                f"{modules_dir}: has no module {name}: the guest needs it; give a kernel with it"
            )
        data = read_module(files[name])
        for needed in dependencies(data):
            visit(needed)
        ordered[name] = Module(name, data)

    for name in wanted:
        visit(name)
    return list(ordered.values())


def dependencies(module: bytes) -> list[str]:
    """Return the names that a module's `.modinfo` section lists as its dependencies."""
    start = module.find(b"\0depends=")
    if start < 0:
        return []
    value = module[start + len(b"\0depends=") :].split(b"\0", 1)[0]
    return [n.replace("-", "_") for n in value.decode("ascii", "replace").split(",") if n]


def read_module(path: Path) -> bytes:
    """Return the uncompressed bytes of a `.ko`, `.ko.xz`, `.ko.gz` or `.ko.zst`. Raises InputError."""
    try:
        data = path.read_bytes()
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".gz":
            return gzip.decompress(data)
        if path.suffix == ".zst":
            return _from_zstd(path, data)
    except (OSError, lzma.LZMAError, zlib.error, EOFError, subprocess.CalledProcessError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return data


def _from_zstd(path: Path, data: bytes) -> bytes:
    """Decompress with the host's zstd, else with a packaged one: Python has zstd only since 3.14."""
    program, environment = "zstd", dict(os.environ)
    if shutil.which(program) is None:
        try:
            files = tree(Apt(), (program,))
        except InputError as error:
            raise InputError(
                f"{path}: needs the program zstd: install the package zstd "
                f"(fetching it failed: {error})"
            ) from error
        program = str(files / "usr/bin/zstd")
        environment["LD_LIBRARY_PATH"] = str(files / "usr/lib" / host_architecture().triplet)
    words = [program, "-dc"]
    done = subprocess.run(words, input=data, capture_output=True, check=True, env=environment)
    return done.stdout


def _builtin(modules_dir: Path) -> set[str]:
    listing = modules_dir / "modules.builtin"
    try:
        return {_name(Path(row)) for row in listing.read_text().split()}
    except OSError as error:
        raise InputError(
            f"{listing}: {error.strerror}: the kernel's modules must be beside it"
        ) from error


def _name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")
