"""The steps after a build: what stands in the way of a release, its notes, its commit and tag."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from release.release import ReleaseError, git, run_tool, version_of

if TYPE_CHECKING:
    from pathlib import Path

_FRAGMENT = re.compile(r"(?:\d+|\+[\w.-]+)\.(?:added|changed|fixed|removed|security)(?:\.\d+)?\.md")


def obstacles(repository: Path) -> list[str]:
    """Return what stands in the way of a release of this checkout, each with what to do; empty if nothing."""
    version, found = version_of(repository), []
    if git(repository, "status", "--porcelain"):
        found.append("the tree has changes that are not committed: commit them, or `git stash`")
    if git(repository, "tag", "--list", tag_of(version)):
        found.append(
            f"{tag_of(version)} is a tag already: set the next version in src/giveback_kernel/__init__.py"
        )
    folder = repository / "changelog.d"
    names = sorted(path.name for path in folder.iterdir() if path.name != "README.md")
    found += [
        f"changelog.d/{name}: not a fragment's name: changelog.d/README.md has how to name it"
        for name in names
        if not _FRAGMENT.fullmatch(name)
    ]
    found += [
        f"changelog.d/{name}: empty: write a sentence for a user, or remove it"
        for name in names
        if not (folder / name).read_text().strip()
    ]
    if not names and f"## {version} (" not in (repository / "CHANGELOG.md").read_text():
        found.append(
            f"no fragments in changelog.d, and CHANGELOG.md has no section {version}: nothing to release"
        )
    return found


def notes(repository: Path) -> str:
    """Return the notes of the release, from the fragments. Raises ReleaseError."""
    words = ("-m", "towncrier", "build", "--draft", "--version", version_of(repository))
    return run_tool(sys.executable, *words, cwd=repository).strip()


def tag(repository: Path, *, is_meant: bool) -> list[str]:
    """Join the fragments into CHANGELOG.md, commit that, and tag it; return what was, or would be, done.

    Nothing is pushed. Raises ReleaseError, before anything is changed, if something stands in the way.
    """
    found = obstacles(repository)
    if found:
        raise ReleaseError("\n".join(("not released:", *found)))
    version = version_of(repository)
    commands = (
        (sys.executable, "-m", "towncrier", "build", "--yes", "--version", version),
        ("git", "commit", "--quiet", "--all", "--message", f"Release {version}"),
        ("git", "tag", "--annotate", tag_of(version), "--message", f"giveback {version}"),
    )
    if is_meant:
        for command in commands:
            run_tool(*command, cwd=repository)
    return [" ".join(command) for command in commands]


def tag_of(version: str) -> str:
    """Return a version's tag."""
    return f"v{version}"
