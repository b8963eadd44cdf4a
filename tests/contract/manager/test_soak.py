"""A quarter of an hour of the manager, by a driven clock, among VMs that come, go, crash, lie and hang."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[3] / "benchmarks/soak.py"


def test_nothing_grows_while_vms_come_and_go() -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--hours", "0.15", "--vms", "6", "--json"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["grown"] == []
    assert found["cycles"] > 2000
    assert found["lives"] > 15
    assert found["actions"] > 0
    assert "internal error" not in found["errors"]
