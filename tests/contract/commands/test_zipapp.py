"""`giveback zipapp` writes an agent that runs by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from giveback.cli import main


def test_the_written_file_runs_without_giveback_installed(tmp_path: Path) -> None:
    target = tmp_path / "agent.pyz"
    assert main(["zipapp", str(target)]) == 0
    done = subprocess.run(
        [sys.executable, "-IS", str(target), "config", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert '"giveback.mode"' in done.stdout


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    assert main(["zipapp", str(tmp_path / "no" / "agent.pyz")]) == 2
