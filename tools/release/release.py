"""What every step of a build is given: the commit's own source tree, the version, where results go."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMMIT_FILE = "src/giveback_kernel/built_from.py"
"""Replaced in the exported tree: what is built from it says its commit."""
_STEP_S = 600


class ReleaseError(Exception):
    """A build or a check that failed: one text that says what, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Release:
    """One commit, exported to `tree`; results go to `out`. `epoch` is the commit's time, Unix seconds."""

    tree: Path
    out: Path
    version: str
    commit: str
    epoch: int

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of every tool: without the caller's own settings, and with the commit's time."""
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        return {
            **kept, "SOURCE_DATE_EPOCH": str(self.epoch), "PYTHONHASHSEED": "0", "TZ": "UTC",
            "LC_ALL": "C.UTF-8", "PYTHONPATH": str(self.tree / "src"), "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "100", "NO_COLOR": "1",
        }  # fmt: skip

    def run(self, *words: str | Path, cwd: Path | None = None) -> str:
        """Run a tool, and return its output. Raises ReleaseError with its last lines if it fails."""
        return run_tool(*words, cwd=cwd or self.tree, environment=self.environment)

    def python(self, *words: str | Path) -> str:
        """Run a module or program by this Python, on the exported sources."""
        return self.run(sys.executable, *words)

    def folder(self, name: str) -> Path:
        """Return a folder of the results, which is made if it is not there."""
        made = self.out / name
        made.mkdir(parents=True, exist_ok=True)
        return made


def export(repository: Path, tree: Path, out: Path, revision: str = "HEAD") -> Release:
    """Export a commit's files to `tree`, whatever lies beside them here. Raises ReleaseError."""
    # An annotated tag is an object of its own, which `git show` prints before its commit.
    named = git(repository, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    commit, epoch = git(repository, "show", "-s", "--format=%H %ct", named).split()
    with tarfile.open(fileobj=io.BytesIO(_git_bytes(repository, "archive", commit))) as archive:
        archive.extractall(tree, filter="data")
    (tree / COMMIT_FILE).write_text(
        f'"""The commit of this build."""\n\nfrom __future__ import annotations\n\nCOMMIT = "{commit}"\n'
    )
    return Release(tree, out, version_of(tree), commit, int(epoch))


def version_of(tree: Path) -> str:
    """Return the one version of all distributions."""
    text = (tree / "src/giveback_kernel/__init__.py").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("__version__ = "))
    return line.split('"')[1]


def run_tool(*words: str | Path, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a tool, and return its output. Raises ReleaseError with its last lines if it fails."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=None if environment is None else dict(environment),
        capture_output=True, text=True, check=False, timeout=_STEP_S,
    )  # fmt: skip
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise ReleaseError(f"{words[0]}: exit code {done.returncode}\n{last}")
    return done.stdout


def git(repository: Path, *words: str) -> str:
    """Return git's output. Raises ReleaseError with git's own words."""
    return _git_bytes(repository, *words).decode().strip()


def _git_bytes(repository: Path, *words: str) -> bytes:
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(repository), *words],
        capture_output=True,
        check=False,
        timeout=_STEP_S,
    )
    if done.returncode:
        raise ReleaseError(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
