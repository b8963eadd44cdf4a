"""Who may import whom. Read from the sources: no import is tried, so none can hide in a function."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[3] / "src"
# Each may import from itself and from those named; what is not named here is for all of giveback.
# `manager.model` is data alone, and imports nothing.
LAYERS = {
    "giveback.host": {
        "giveback.errors",
        "giveback.text",
        "giveback.accounting.page_ledger",
        "giveback.manager.model",
    },
    "giveback_lab.report": {
        "giveback.errors",
        "giveback.text",
        "giveback.accounting.page_ledger",
        "giveback.accounting.usage",
    },
    "giveback.vmm": {
        "giveback.errors",
        "giveback.text",
        "giveback.sizes",
        "giveback.accounting.page_ledger",
        "giveback.host",
    },
}
# Kernel parsers may list folders and read through `files`; nothing else of the world.
PARSERS_MAY = {"__future__", "os", "giveback_kernel.files", "giveback_agent.errors"}
PARSERS_MAY |= {"giveback_kernel.record", "giveback_kernel", "collections", "errno", "re"}


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(package: str) -> list[Path]:
    return sorted((SRC / package.replace(".", "/")).rglob("*.py"))


def imports_of(path: Path, types_too: bool = True) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_bytes())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse if not types_too else ast.iter_child_nodes(node))
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {_imported(node.module or "", alias.name) for alias in node.names}
        pending.extend(ast.iter_child_nodes(node))
    return found


def _imported(module: str, name: str) -> str:
    """`from a import b` imports a.b where that is a module, else a."""
    path = SRC / module.replace(".", "/") / name
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").is_file() else module


def is_in(name: str, packages: set[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def ids(paths: list[Path]) -> list[str]:
    return [module_name(p) for p in paths]


AGENT = modules_of("giveback_agent")
LAB_GUEST = modules_of("giveback_lab_guest")
HOST = [*modules_of("giveback"), *modules_of("giveback_lab")]
PARSERS = modules_of("giveback_kernel")


@pytest.mark.parametrize("path", AGENT, ids=ids(AGENT))
def test_the_agent_imports_the_standard_library_and_itself(path: Path) -> None:
    for name in imports_of(path, types_too=False):
        root = name.split(".")[0]
        assert root in {"giveback_agent", "giveback_kernel"} or root in sys.stdlib_module_names, (
            name
        )
    assert not any(is_in(n, {"giveback", "giveback_lab_guest"}) for n in imports_of(path))


@pytest.mark.parametrize("path", LAB_GUEST, ids=ids(LAB_GUEST))
def test_the_labs_guest_imports_the_standard_library_and_the_agent(path: Path) -> None:
    own = {"giveback_agent", "giveback_kernel", "giveback_lab_guest"}
    for name in imports_of(path, types_too=False):
        assert name.split(".")[0] in own | sys.stdlib_module_names, name


@pytest.mark.parametrize("path", PARSERS, ids=ids(PARSERS))
def test_kernel_parsers_import_no_way_to_the_world_but_files(path: Path) -> None:
    for name in imports_of(path, types_too=False):
        assert is_in(name, PARSERS_MAY), f"{name}: a parser takes bytes and gives a record"


@pytest.mark.parametrize("path", HOST, ids=ids(HOST))
def test_the_hosts_layers_know_only_what_is_below_them(path: Path) -> None:
    me = module_name(path)
    used = {n for n in imports_of(path) if is_in(n, {"giveback", "giveback_lab"})} - {"giveback"}
    for layer, below in LAYERS.items():
        if is_in(me, {layer}):
            beyond = {n for n in used if not is_in(n, below | {layer})}
            assert not beyond, f"{me} is of {layer} and imports {sorted(beyond)}"
    if not is_in(me, {"giveback.commands", "giveback.cli", "giveback.__main__"}):
        upward = {n for n in used if is_in(n, {"giveback.commands", "giveback.cli"})}
        assert not upward, f"{me} imports {sorted(upward)}: commands are the top"
    if not is_in(me, {"giveback.commands", "giveback_lab", "giveback_lab.bench"}):
        assert not {n for n in used if is_in(n, {"giveback_lab"})}, f"{me} imports the lab"
    assert not any(is_in(n, {"giveback_lab_guest"}) for n in imports_of(path)), me


def test_no_file_is_too_long_to_read() -> None:
    for path in (*AGENT, *LAB_GUEST, *HOST):
        assert len(path.read_text().splitlines()) <= 500, path
