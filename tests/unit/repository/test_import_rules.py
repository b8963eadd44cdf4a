"""Who may import whom. Read from the sources: no import is tried, so none can hide in a function."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from import_graph import SRC, circles, imports_of, module_name, read_graph

# Every room from the ground up, package by package. A room imports only what stands above it in its own
# package's list, and in the lists of the packages that its own may import (MAY_IMPORT).
ROOMS = {
    "giveback_kernel": ("giveback_kernel",),
    "giveback_agent": (
        "giveback_agent.errors",
        "giveback_agent.runtime",
        "giveback_agent.cgroups",
        "giveback_agent.host_link",
        "giveback_agent.wsl",
        "giveback_agent.settings",
        "giveback_agent.policy.activity",
        "giveback_agent.policy",
        "giveback_agent.release.cache",
        "giveback_agent.release",
        "giveback_agent.install",
        "giveback_agent.doctor",
        "giveback_agent.service",
        "giveback_agent.commands",
        "giveback_agent.__main__",
    ),
    "giveback": (
        "giveback.errors",
        "giveback.arguments",
        "giveback.reporters.charts",
        "giveback.reporters.tables",
        "giveback.interrupts",
        "giveback.host",
        "giveback.host.readers",
        "giveback.host.sockets",
        "giveback.vmm.base",
        "giveback.vmm.clients",
        "giveback.vmm.mapping",
        "giveback.vmm.layout",
        "giveback.vmm.backends",
        "giveback.vmm.find",
        "giveback.vmm.control",
        "giveback.accounting",
        "giveback.guest",
        "giveback.manager.model",
        "giveback.reporters",
        "giveback.manager.logs",
        "giveback.manager.settings",
        "giveback.manager.systemd_unit",
        "giveback.manager.history",
        "giveback.manager.history.usage",
        "giveback.reporters.usage",
        "giveback.manager.http.metrics",
        "giveback.manager.http",
        "giveback.manager.http.web",
        "giveback.manager.devices",
        "giveback.manager.decide",
        "giveback.manager.fleet",
        "giveback.manager.daemon",
        "giveback.manager.lifecycle",
        "giveback.top",
        "giveback.top.sources",
        "giveback.top.ui",
        "giveback.commands",
        "giveback.cli",
        "giveback.__main__",
    ),
    "giveback_lab_guest": (
        "giveback_lab_guest.works",
        "giveback_lab_guest",
        "giveback_lab_guest.strategies",
    ),
    "giveback_lab": (
        "giveback_lab.packages",
        "giveback_lab.images",
        "giveback_lab.report",
        "giveback_lab.vms",
        "giveback_lab.demo",
        "giveback_lab.pressure",
        "giveback_lab.bench.model",
        "giveback_lab.bench.analysis",
        "giveback_lab.bench.strategy",
        "giveback_lab.bench.strategies",
        "giveback_lab.bench.works",
        "giveback_lab.bench.report",
        "giveback_lab.bench.run",
        "giveback_lab.matrix",
        "giveback_lab.commands",
    ),
}
# What a package may import beside itself. The host knows of the agent only the protocol.
MAY_IMPORT = {
    "giveback_kernel": set[str](),
    "giveback_agent": {"giveback_kernel"},
    "giveback": {"giveback_kernel", "giveback_agent.host_link.json_lines"},
    "giveback_lab_guest": {"giveback_kernel", "giveback_agent"},
    "giveback_lab": {"giveback_kernel", "giveback"},
}
# Narrower than the order asks: each may import from itself and from those named.
LAYERS = {
    "giveback.reporters.charts": {"giveback.errors"},
    "giveback.host": {"giveback.errors"},
    "giveback.vmm": {"giveback.errors", "giveback.host"},
    "giveback_lab.report": {"giveback.errors", "giveback.reporters.charts"},
}
# Kernel parsers may list folders and read through `files`; nothing else of the world.
PARSERS_MAY = {"__future__", "os", "stat", "collections", "errno", "re", "giveback_kernel"}
# A policy decides on what it is given. These would let it look for itself, or act.
POLICY_MAY_NOT = {
    *(
        "builtins",
        "fcntl",
        "giveback_kernel.files",
        "io",
        "mmap",
        "os",
        "pathlib",
        "select",
        "shutil",
    ),
    *("signal", "socket", "subprocess", "time"),
    *("giveback_agent.host_link", "giveback_agent.release", "giveback_agent.runtime"),
    *("giveback_agent.service", "giveback_agent.wsl"),
}
# Here each file is one item of one kind, and there may be as many as there are items.
ONE_FILE_PER_ITEM = ("giveback_kernel", "commands", "strategies")
ENTRIES_LIMIT = 12
FUNCTION_LINES_LIMIT = 60
FILE_LINES_LIMIT = 500
NO_ENTRIES = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}

GRAPH = read_graph()


def modules_of(package: str) -> list[Path]:
    return sorted((SRC / package.replace(".", "/")).rglob("*.py"))


def is_in(name: str, packages: set[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def ids(paths: list[Path]) -> list[str]:
    return [module_name(p) for p in paths]


AGENT = modules_of("giveback_agent")
LAB_GUEST = modules_of("giveback_lab_guest")
HOST = [*modules_of("giveback"), *modules_of("giveback_lab")]
PARSERS = modules_of("giveback_kernel")
POLICY = modules_of("giveback_agent/policy")
ALL = [*PARSERS, *AGENT, *LAB_GUEST, *HOST]


def test_no_module_and_no_room_imports_itself_by_a_way_round() -> None:
    assert circles(GRAPH.imports) == []
    assert circles(GRAPH.room_imports) == []


def test_every_room_has_its_place_in_the_order() -> None:
    listed = [room for rooms in ROOMS.values() for room in rooms]
    assert sorted(listed) == sorted(GRAPH.room_imports)


@pytest.mark.parametrize("path", ALL, ids=ids(ALL))
def test_a_module_imports_only_what_is_below_it(path: Path) -> None:
    me = module_name(path)
    package = me.split(".")[0]
    order = ROOMS[package]
    room = GRAPH.rooms.get(me)
    for name in sorted(n for n in imports_of(path) if n.split(".")[0] in ROOMS):
        if name.split(".")[0] != package:
            assert is_in(name, MAY_IMPORT[package]), f"{me} imports {name}, of another distribution"
        elif room is not None and name in GRAPH.rooms and GRAPH.rooms[name] != room:
            used = GRAPH.rooms[name]
            assert order.index(used) < order.index(room), f"{me} imports {name}, which is above it"


@pytest.mark.parametrize("path", HOST, ids=ids(HOST))
def test_the_hosts_layers_know_only_what_is_below_them(path: Path) -> None:
    me = module_name(path)
    used = {n for n in imports_of(path) if is_in(n, {"giveback", "giveback_lab"})} - {"giveback"}
    for layer, below in LAYERS.items():
        if is_in(me, {layer}):
            beyond = {n for n in used if not is_in(n, below | {layer})}
            assert not beyond, f"{me} is of {layer} and imports {sorted(beyond)}"


@pytest.mark.parametrize("path", AGENT, ids=ids(AGENT))
def test_the_agent_imports_the_standard_library_and_itself(path: Path) -> None:
    for name in imports_of(path, types_too=False):
        root = name.split(".")[0]
        assert root in {"giveback_agent", "giveback_kernel"} or root in sys.stdlib_module_names, (
            name
        )


@pytest.mark.parametrize("path", LAB_GUEST, ids=ids(LAB_GUEST))
def test_the_labs_guest_imports_the_standard_library_and_the_agent(path: Path) -> None:
    own = {"giveback_agent", "giveback_kernel", "giveback_lab_guest"}
    for name in imports_of(path, types_too=False):
        assert name.split(".")[0] in own | sys.stdlib_module_names, name


@pytest.mark.parametrize("path", PARSERS, ids=ids(PARSERS))
def test_kernel_parsers_import_no_way_to_the_world_but_files(path: Path) -> None:
    # The one module that is no parser: agent and host share it, and what they share is here.
    more = {"fcntl", "time"} if path.stem == "private_lock" else set()
    for name in imports_of(path, types_too=False):
        assert is_in(name, PARSERS_MAY | more), f"{name}: a parser takes bytes and gives a record"


@pytest.mark.parametrize("path", POLICY, ids=ids(POLICY))
def test_a_policy_imports_neither_files_nor_os_nor_what_acts(path: Path) -> None:
    used = imports_of(path, types_too=False)
    assert not {n for n in used if is_in(n, POLICY_MAY_NOT)}, "decisions are pure"
    readers = {
        alias.name
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("giveback_kernel")
        for alias in node.names
        if alias.name.startswith(("read", "write", "probe"))
    }
    assert not readers, "a decision is given what was read"


def test_packages_faces_define_and_import_nothing() -> None:
    """`import giveback.vmm.base` runs every `__init__` above it: those must cost nothing."""
    for path in ALL:
        if path.name == "__init__.py" and path.parent.name != "strategies":
            assert not {n for n in imports_of(path) if n != "__future__"}, path


@pytest.mark.parametrize("folder", sorted({p.parent for p in ALL}), ids=lambda p: p.name)
def test_a_package_is_seen_at_a_glance(folder: Path) -> None:
    entries = [entry.name for entry in folder.iterdir() if entry.name not in NO_ENTRIES]
    if folder.name not in ONE_FILE_PER_ITEM:
        assert len(entries) <= ENTRIES_LIMIT, sorted(entries)


def test_no_file_is_too_long_to_read() -> None:
    for path in ALL:
        assert len(path.read_text().splitlines()) <= FILE_LINES_LIMIT, path


def test_no_function_is_too_long_to_read() -> None:
    for path in ALL:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= FUNCTION_LINES_LIMIT, f"{path}: {node.name}"
