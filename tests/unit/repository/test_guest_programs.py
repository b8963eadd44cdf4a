"""Programs that tests and benchmarks run elsewhere stand in strings, where no linter looks.

What they import from us exists, and so do the keywords that they call our functions with.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from import_graph import SRC

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parents[3]
FILES = [
    path
    for folder in ("benchmarks", "tests", "tools")
    for path in sorted((TOP / folder).rglob("*.py"))
    if path != Path(__file__)
]


def programs(path: Path) -> Iterator[ast.Module]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if "from giveback" not in node.value or "\n" not in node.value:
                continue
            try:
                yield ast.parse(node.value)
            except (SyntaxError, ValueError):
                # Prose, or a template.
                continue


def file_of(module: str) -> Path | None:
    place = SRC / module.replace(".", "/")
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def names_of(module: str) -> frozenset[str]:
    """Every name that is bound anywhere in the module: enough to tell that it has not moved away."""
    file = file_of(module)
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())) if file else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
    return frozenset(found)


@cache
def keywords_of(module: str, function: str) -> frozenset[str] | None:
    """The parameters of a function that stands at the module's top; None where it takes any, or is none."""
    file = file_of(module)
    for node in ast.parse(file.read_bytes()).body if file else ():
        if isinstance(node, ast.FunctionDef) and node.name == function and not node.args.kwarg:
            every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            return frozenset(arg.arg for arg in every)
    return None


def missing_in(program: ast.Module) -> Iterator[str]:
    modules: dict[str, str] = {}
    for node in ast.walk(program):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("giveback"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if file_of(name) is not None:
                    modules[alias.asname or alias.name] = name
                elif alias.name not in names_of(str(node.module)):
                    yield name
    for node in ast.walk(program):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and node.attr not in names_of(module):
                yield f"{module}.{node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = node.func
            module = modules.get(called.value.id) if isinstance(called.value, ast.Name) else None
            known = keywords_of(module, called.attr) if module is not None else None
            for keyword in node.keywords:
                if known is not None and keyword.arg and keyword.arg not in known:
                    yield f"{module}.{called.attr}({keyword.arg}=)"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TOP).as_posix())
def test_what_a_guests_program_imports_exists(path: Path) -> None:
    assert not [name for program in programs(path) for name in missing_in(program)]


def test_a_program_with_a_module_that_has_moved_is_found() -> None:
    room = "giveback_agent." + "release"
    program = ast.parse(f"from {room} import nowhere, steps\nsteps.gone()\nsteps.execute(gone=1)\n")
    assert set(missing_in(program)) == {
        f"{room}.nowhere",
        f"{room}.steps.gone",
        f"{room}.steps.execute(gone=)",
    }
