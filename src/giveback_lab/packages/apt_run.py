"""Run one of apt's programs, on the host's own state or on a private one."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from giveback.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

APT_TIMEOUT_S = 240


def run_apt(
    words: Sequence[str],
    private: Path | None = None,
    architecture: str = "",
    tool: str = "apt-get",
    cwd: Path | None = None,
) -> str:
    """Return the output of apt. `private` is the folder of a private state, or None for the host's.

    `architecture` (such as "arm64") makes apt see packages as a machine of that kind would. Raises
    InputError with apt's first reason.
    """
    options = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]
    if private is not None:
        options += _private_options(private)
    if architecture:
        names = ("-o", f"APT::Architecture={architecture}")
        options += [*names, "-o", f"APT::Architectures={architecture}"]
    try:
        done = subprocess.run(
            [tool, *options, *words], capture_output=True, text=True, check=False,
            timeout=APT_TIMEOUT_S, env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "teletype"},
            stdin=subprocess.DEVNULL, cwd=cwd,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"apt-get {words[0]}: no end after {APT_TIMEOUT_S} s: is there network?"
        ) from error
    except OSError as error:
        raise InputError(f"{tool}: {error.strerror}: install the package apt") from error
    if done.returncode != 0:
        reason = [r for r in done.stderr.splitlines() if r.startswith("E:")] or ["E: failed"]
        raise InputError(f"apt-get {' '.join(words[:4])}: {reason[0][2:].strip()}")
    return done.stdout


def _private_options(folder: Path) -> list[str]:
    return [
        "-o", f"Dir::State={folder}/state",
        "-o", f"Dir::State::status={folder}/state/status",
        "-o", f"Dir::Cache={folder}/cache",
        "-o", f"Dir::Etc::sourcelist={folder}/sources.list",
        "-o", "Dir::Etc::sourceparts=/dev/null",
        "-o", "Dir::Etc::preferences=/dev/null",
        "-o", "Dir::Etc::preferencesparts=/dev/null",
        "-o", "Dir::Log=/dev/null",
        "-o", "DPkg::Post-Invoke::=",
        "-o", "APT::Update::Post-Invoke::=",
        "-o", "APT::Update::Post-Invoke-Success::=",
        # Without this, apt only warns about an unreachable server, and counts empty lists as new.
        "-o", "APT::Update::Error-Mode=any",
        "-o", "Debug::NoLocking=1",
    ]  # fmt: skip
