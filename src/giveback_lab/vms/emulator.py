"""Find a QEMU that boots the lab's guests, or fetch the distribution's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from giveback.errors import InputError
from giveback_lab.images.distribution import qemu_tree
from giveback_lab.packages.architecture import X86_64, Architecture, host_architecture


@dataclass(frozen=True, slots=True)
class Emulator:
    """A QEMU program with the arguments and environment that it needs to run from its folder."""

    program: Path
    version: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def find_emulator(
    kernel_release: str, given: Path | None = None, architecture: Architecture = X86_64
) -> Emulator:
    """Return a QEMU for this guest kernel: the given one, else the installed one, else a fetched one.

    Raises InputError if the given one cannot be used, or if none can be found or fetched.
    """
    if given is not None:
        emulator = _installed(given)
        reason = unsuitable(emulator.version, kernel_release)
        if reason:
            raise InputError(f"{given}: {reason}")
        return emulator
    found = shutil.which(architecture.qemu_program)
    wrong = f"QEMU is missing: install the package {architecture.qemu_packages[0]}"
    if found:
        try:
            emulator = _installed(Path(found))
            reason = unsuitable(emulator.version, kernel_release)
            if reason is None:
                return emulator
            wrong = f"{found}: {reason}"
        except InputError as error:
            wrong = str(error)
    try:
        return _from_tree(qemu_tree(architecture), architecture.qemu_program)
    except InputError as error:
        raise InputError(f"{wrong} (fetching one failed: {error})") from error


def unsuitable(qemu_version: str, kernel_release: str) -> str | None:
    """Return why this QEMU must not run this guest under TCG, or None if it may.

    The version is compared because memory corruption cannot be probed for: QEMU 7.2 (Debian 12)
    causes list corruption and double faults in Linux 6.12 guests. QEMU 10.0 does not; nor does 7.2
    with 6.1.
    """
    if _numbers(qemu_version) < (8, 0) and _numbers(kernel_release) > (6, 1):
        return (
            f"QEMU {qemu_version} corrupts the memory of Linux {kernel_release} guests without "
            "KVM: use QEMU 10 (package qemu-system-x86 from backports), or Linux 6.1"
        )
    return None


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _installed(program: Path) -> Emulator:
    return Emulator(program, _version(program, {}))


def _from_tree(tree: Path, name: str) -> Emulator:
    libraries = tree / "usr/lib" / host_architecture().triplet
    environment = {
        "LD_LIBRARY_PATH": f"{libraries}:{libraries}/pulseaudio",
        "QEMU_MODULE_DIR": str(libraries / "qemu"),
    }
    program = tree / "usr/bin" / name
    firmware = ("-L", str(tree / "usr/share/seabios"), "-L", str(tree / "usr/share/qemu"))
    return Emulator(program, _version(program, environment), firmware, environment)


def _version(program: Path, environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=20, check=True,
            env={**os.environ, **environment},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"{program}: does not run: {error}") from error
    found = re.search(r"version (\d+\.\d+\S*)", done.stdout)
    if found is None:
        raise InputError(f"{program}: not a QEMU: its output is {done.stdout[:80]!r}")
    return found[1]
