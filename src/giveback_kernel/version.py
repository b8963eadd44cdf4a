"""What `--version` prints: the version, and the commit where a release was built from one."""

from __future__ import annotations

from giveback_kernel import __version__, built_from

_COMMIT_CHARS = 12


def version_text(program: str) -> str:
    """Return the line of `--version`."""
    commit = built_from.COMMIT[:_COMMIT_CHARS]
    return f"{program} {__version__}" + (f" (commit {commit})" if commit else "")
