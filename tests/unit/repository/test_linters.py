"""What CI checks beside behaviour, so that one command here is the same as there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SPELLED = {".css", ".html", ".js", ".md", ".py", ".toml", ".yaml", ".yml", ""}


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--output-format", "concise", "src", "tests", "tools", "benchmarks"],
        ["ruff", "format", "--check", "src", "tests", "tools", "benchmarks"],
        ["mypy"],
    ],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_linter(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_words_are_spelled_right() -> None:
    """Of all text files in version control, except figures and tables that a program has written."""
    pytest.importorskip("codespell_lib", reason="codespell is missing: `./run test` installs it")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a checkout of git: which files are the project's is not known")
    names = [name for name in listed.stdout.decode().split("\0") if Path(name).suffix in SPELLED]
    command = [sys.executable, "-m", "codespell_lib", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shell_scripts_are_sound() -> None:
    for script in (ROOT / "run", ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_drawing_of_the_rooms_is_not_stale() -> None:
    """`tools/draw_rooms.py` makes it again."""
    command = [sys.executable, "tools/draw_rooms.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
