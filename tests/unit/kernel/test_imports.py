"""What the readings cost in memory: nothing that brings `inspect` or `re` with it is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import giveback_agent

DEAR = {
    "argparse",
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "re",
    "subprocess",
    "typing",
    "typing_extensions",
}
PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
folder = os.path.join(sys.argv[1], "giveback_kernel")
for name in sorted(os.listdir(folder)):
    if name.endswith(".py"):
        __import__("giveback_kernel." + name[:-3])
import giveback_agent.release.observe
print(*sys.modules)
"""


def test_importing_every_reading_imports_nothing_dear() -> None:
    source = Path(giveback_agent.__file__).parent.parent
    # -I -S: without the site's own imports, as the service runs.
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", PROGRAM, str(source)],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(ran.stdout.split())
    assert "giveback_kernel.zoneinfo" in imported
    assert not imported & DEAR
