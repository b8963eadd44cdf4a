"""Modules of decide/ take times and numbers as arguments: they import no clock, files or event loop."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

DECIDE = Path(__file__).parents[4] / "src/giveback/manager/decide"
MODULES = sorted(DECIDE.glob("*.py"))
IMPURE = {
    "asyncio",
    "io",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
}
IMPURE |= {"giveback_kernel.files", "giveback.host.procs", "giveback.manager.fleet"}


@pytest.mark.parametrize("path", MODULES, ids=[path.stem for path in MODULES])
def test_what_decides_imports_no_way_to_the_world(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            assert not any(name == one or name.startswith(f"{one}.") for one in IMPURE), name
