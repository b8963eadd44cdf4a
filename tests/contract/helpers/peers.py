"""Real peers of the contract tests: installed, or fetched without root as the lab fetches its QEMU.

Without network, and with nothing cached, a test that needs one is skipped and says why; where CI is
set it fails, since a green CI that met no real peer would say nothing.
"""

from __future__ import annotations

import functools
import os
import subprocess
from typing import TypeVar

import pytest

from giveback.errors import InputError
from giveback_lab.images.kernels import DEFAULT_SERIES
from giveback_lab.packages.programs import Program, packaged_program
from giveback_lab.vms.emulator import Emulator, find_emulator

T = TypeVar("T")


def emulator() -> Emulator:
    """Return the QEMU of the lab's VMs."""
    return had("QEMU", _emulator())


def peer(package: str, name: str, *, static: bool = False) -> Program:
    """Return a program of a package of the host's distribution."""
    return had(name, _program(package, name, static))


def environment_of(program: Program | Emulator) -> dict[str, str]:
    """Return the environment for running it."""
    return {**os.environ, **program.environment}


def systemd_analyze(*words: str) -> subprocess.CompletedProcess[str]:
    """Return the output of systemd-analyze; a fetched one knows the units of its own package."""
    program = peer("systemd", "systemd-analyze")
    environment = environment_of(program)
    if program.files is not None:
        environment["SYSTEMD_UNIT_PATH"] = f"{program.files}/usr/lib/systemd/system:"
    command = [str(program.path), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@functools.cache
def _emulator() -> Emulator | InputError:
    # A failure is cached, too: without network each attempt takes long.
    try:
        return find_emulator(DEFAULT_SERIES)
    except InputError as error:
        return error


@functools.cache
def _program(package: str, name: str, static: bool) -> Program | InputError:
    try:
        return packaged_program(package, name, static=static)
    except InputError as error:
        return error


def had(name: str, found: T | InputError) -> T:
    """Return the found peer; if there is none, skip the test, or fail it in CI."""
    if not isinstance(found, InputError):
        return found
    if os.environ.get("CI"):
        raise found
    pytest.skip(f"{name} is not installed and cannot be fetched: {found}")
