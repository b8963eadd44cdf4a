"""Read who imports whom from the sources. Nothing is imported, so no import can hide in a function.

A *room* is a package. In the packages of `OPEN` each module is a room of its own: it is either the
ground that the packages beside it stand on (`giveback/manager/model.py`) or their roof
(`giveback/manager/daemon.py`).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
OPEN = ("giveback", "giveback.manager", "giveback.vmm", "giveback_agent", "giveback_lab.bench")
TOP = ("giveback", "giveback_agent", "giveback_kernel", "giveback_lab", "giveback_lab_guest")


@dataclass(frozen=True)
class ImportGraph:
    """Every module of `src/` with the modules that it imports, anywhere in its text."""

    files: dict[str, Path]
    imports: dict[str, frozenset[str]]

    @cached_property
    def rooms(self) -> dict[str, str]:
        """Each module's room; an `__init__` that defines nothing has none."""
        return {m: self._room(m) for m in self.files if self.files[m].name != "__init__.py"}

    @cached_property
    def room_imports(self) -> dict[str, frozenset[str]]:
        """Each room with the rooms that it imports."""
        found: dict[str, set[str]] = {room: set() for room in self.rooms.values()}
        for module, room in self.rooms.items():
            found[room] |= {self.rooms[name] for name in self.imports[module] if name in self.rooms}
        return {room: frozenset(used - {room}) for room, used in found.items()}

    def _room(self, module: str) -> str:
        package = module.rpartition(".")[0]
        return module if package in OPEN else package


def read_graph() -> ImportGraph:
    """Read every module below `src/`."""
    paths = sorted(path for top in TOP for path in (SRC / top).rglob("*.py"))
    files = {module_name(path): path for path in paths}
    return ImportGraph(
        files, {name: frozenset(imports_of(path)) - {name} for name, path in files.items()}
    )


def module_name(path: Path) -> str:
    """Return the name by which a file below `src/` is imported."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, types_too: bool = True) -> set[str]:
    """Return every module that a file imports, anywhere; with `types_too` also under TYPE_CHECKING."""
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
            if node.level:
                raise ValueError(f"{path}: relative import")
            found |= {_imported(node.module or "", alias.name) for alias in node.names}
        pending.extend(ast.iter_child_nodes(node))
    return found


def _imported(module: str, name: str) -> str:
    """Return what `from a import b` imports: a.b if that is a module, else a."""
    path = SRC / module.replace(".", "/") / name
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").is_file() else module


def circles(graph: dict[str, frozenset[str]]) -> list[list[str]]:
    """Return every strongly connected group of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def floors(graph: dict[str, frozenset[str]]) -> dict[str, int]:
    """Return each node's floor: 1 without imports, else one above the highest that it imports."""
    known: dict[str, int] = {}

    def floor(node: str) -> int:
        if node not in known:
            known[node] = 1 + max((floor(other) for other in graph.get(node, ())), default=0)
        return known[node]

    for node in graph:
        floor(node)
    return known
