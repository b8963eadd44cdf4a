"""The documentation as a site: built without a warning, every page reachable, every reference there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from site_pages import tree

ROOT = Path(__file__).parents[3]


def build(repository: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "site_pages", str(out), "--of", str(repository)], cwd=ROOT,
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")},
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_every_page_is_in_the_contents_of_the_first_one(site: Path) -> None:
    contents = (site / "index.html").read_text()
    pages = [path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "docs").glob("*.md")]
    assert len(pages) > 40
    assert [str(page) for page in pages if f'href="{page}"' not in contents] == []
    for caption in ("I have a guest", "I run a host", "I compare systems", "Reference"):
        assert f'<span class="caption-text">{caption}</span>' in contents


def test_the_reference_has_every_command_and_every_resource(site: Path) -> None:
    commands = (site / "reference/giveback.html").read_text()
    for path in (ROOT / "src/giveback/commands").glob("[a-z]*.py"):
        assert f"giveback {path.stem}" in commands
    api = re.sub(r"<[^>]*>", "", (site / "reference/api.html").read_text())
    for resource in ("GET /v1/status", "POST /v1/reclaim", "GET /v1/usage"):
        assert resource in api


def test_pictures_are_there_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    page = (site / "README.html").read_text()
    assert 'src="_images/demo.png"' in page
    assert (site / "_images/demo.png").stat().st_size > 1000
    assert '<script src="http' not in page
    assert '<link rel="stylesheet" type="text/css" href="http' not in page


def test_a_reference_to_a_page_that_is_not_there_fails_the_build(tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    tree.stage(ROOT, copy)
    (copy / "docs/glossary.md").write_text(
        "# Words\n\nSee [the policy](policy.md#no-such-heading).\n"
    )
    done = build(copy, tmp_path / "out")
    assert done.returncode != 0
    assert "no-such-heading" in done.stderr
