"""What CI checks beside behaviour, so that one command here is the same as there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


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


def test_shell_scripts_are_sound() -> None:
    for script in (ROOT / "run", ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_drawing_of_the_rooms_is_not_stale() -> None:
    """`tools/draw_rooms.py` makes it again."""
    command = [sys.executable, "tools/draw_rooms.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
