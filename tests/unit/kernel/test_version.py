"""What `--version` prints, of a release and of a checkout."""

from __future__ import annotations

import pytest

from giveback_kernel import __version__, built_from, version


@pytest.mark.parametrize(
    ("commit", "end"), [("0123456789abcdef", " (commit 0123456789ab)"), ("", "")]
)
def test_a_release_says_its_commit(commit: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built_from, "COMMIT", commit)
    assert version.version_text("giveback") == f"giveback {__version__}{end}"
