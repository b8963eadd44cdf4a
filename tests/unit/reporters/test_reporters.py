"""Reporters: a record becomes text and a document, whatever the names in it are."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_samples import action, status, vm_status
from observations import GIB, HOST, MIB, observation

from giveback import reporters
from giveback.accounting.diagnosis import Finding, Severity
from giveback.accounting.exact import Exact, ExactRow
from giveback.accounting.usage import NO_GUEST
from giveback.manager.model import (
    ActionKind,
    Ask,
    Decision,
    Lease,
    ReclaimResult,
    Returned,
    VmCondition,
)
from giveback.reporters import (
    changes,
    daemon_status,
    explanation,
    findings,
    reclaimed,
    vm_table,
)
from giveback.reporters.tables import columns
from giveback.vmm.base import Channel, ChannelKind

EXACT = Exact(
    (ExactRow("free", 3 * MIB, 0, MIB), ExactRow("anonymous", MIB, MIB, 0)),
    (ExactRow("2 MiB (order 9)", 3 * MIB, 0, MIB),),
    ((30.0, MIB),),
    ("a note",),
)
FOUND = Finding(Severity.KEEPS, "a \x1b[2J", "of \n it", "do")
FOLDER = Path(reporters.__file__).parent
MODULES = sorted((*FOLDER.glob("*.py"), *FOLDER.glob("tables/*.py")))


@pytest.mark.parametrize("path", MODULES, ids=[path.stem for path in MODULES])
def test_a_reporter_imports_neither_io_nor_commands(path: Path) -> None:
    world = {"asyncio", "os", "socket", "subprocess", "sys", "time"}
    imported = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert not imported & world
    beyond = ("giveback.commands", "giveback.guest", "giveback.host", "giveback.manager")
    # The daemon's data, which these reporters show.
    data = {"giveback.manager.model"}
    assert not any(name.startswith(beyond) for name in imported - data)


@given(st.lists(st.lists(st.text(max_size=9), min_size=3, max_size=3), min_size=1, max_size=6))
def test_each_row_is_a_line_with_all_its_cells(rows: Sequence[Sequence[str]]) -> None:
    lines = columns.aligned(rows, right={1})
    assert len(lines) == len(rows)
    # A Chinese letter takes two cells of a terminal.
    widths = [max(columns.width_of(row[i]) for row in rows) for i in range(3)]
    for line, row in zip(lines, rows, strict=True):
        spaces = [" " * (widths[i] - columns.width_of(row[i])) for i in range(2)]
        assert line == f"{row[0]}{spaces[0]}  {spaces[1]}{row[1]}  {row[2]}".rstrip()


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        columns.aligned([("a", "b"), ("c",)])


@given(st.lists(st.text(max_size=80), max_size=5))
def test_each_vm_is_one_line_whatever_its_name(names: list[str]) -> None:
    seen = [observation(name, pid) for pid, name in enumerate(names, 1)]
    lines = vm_table.text(seen).split("\n")
    if not names:
        return
    legend = next(at for at, line in enumerate(lines) if line.startswith("FREE HELD:"))
    # The head, the VMs, and their sum if there are several.
    assert legend == 1 + len(names) + (len(names) > 1)
    assert all(line.isprintable() for line in lines)
    assert sorted(str(one["name"]) for one in vm_table.documents(seen)) == sorted(names)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_a_table_is_no_wider_than_the_terminal(width: int) -> None:
    seen = [observation("x" * 40, 1), observation("two", 2, guest=NO_GUEST)]
    lines = vm_table.text(seen, width).split("\n")
    table = lines[: lines.index(next(line for line in lines if "FREE HELD:" in line))]
    assert max(map(len, table)) <= width
    assert table[-1].startswith("total")
    if width >= 120:
        assert "FREE HELD" in lines[0]
        assert " ? " in f"{table[2]} "


def test_the_vm_with_the_most_residue_comes_first_and_an_unknown_one_last() -> None:
    less = replace(HOST, ram_resident_bytes=500 * MIB)
    seen = [
        observation("silent", 1, guest=NO_GUEST),
        observation("less", 2, host=less),
        observation("most", 3),
        observation("barred", 4, host=None),
    ]
    assert [one["name"] for one in vm_table.documents(seen)] == ["most", "less", "barred", "silent"]
    residues = [one["residue_bytes"] for one in vm_table.documents(seen)]
    assert residues == [350 * MIB, 76 * MIB, None, None]
    most, _, barred = vm_table.text(seen).splitlines()[1:4]
    assert "▒" in most
    # An unknown amount has no bound.
    assert " ? " in barred
    assert "≤" not in barred


def test_an_explanation_is_of_one_observation() -> None:
    seen = observation(problems=("bad \x1b",))
    text = explanation.text(seen)
    assert "= guest RAM, resident" in text
    assert text.endswith("problem: bad \\x1b")
    document = explanation.document(seen)
    assert document["residue_bytes"] == 350 * MIB
    assert "exact" not in document
    exact = replace(seen, exact=EXACT)
    assert explanation.text(exact).startswith(text + "\n\npage by page")
    assert explanation.text(exact).endswith("note: a note")
    found: Any = json.loads(json.dumps(explanation.document(exact)))
    assert found["exact"]["residue_bytes"] == 3 * MIB
    assert found["exact"]["free_resident_since"] == [{"at_least_s": 30.0, "resident_bytes": MIB}]
    assert sum(row["host_bytes"] for row in found["rows"]) == found["charged_bytes"]


def test_an_unread_vm_has_no_explanation() -> None:
    seen = observation(host=None)
    assert explanation.text(seen) == ""
    assert explanation.document(seen) == {}


def test_findings_name_the_vm_and_then_the_machine() -> None:
    found = [(observation("a\n"), (FOUND,)), (observation("b", 2), ())]
    assert findings.text(found).splitlines() == [
        "a\\n (pid 1, qemu)",
        "  keeps memory: a \\x1b[2J",
        "      evidence: of \\n it",
        "      remedy:   do",
        "      more:     docs/hypervisors.md",
        "b (pid 2, qemu): nothing found that keeps memory",
    ]
    assert findings.text([]) == "no VM runs on this host"
    assert findings.text([], [FOUND]).startswith("this WSL 2 machine\n  keeps memory")
    assert [one["name"] for one in findings.documents(found, ())] == [
        "a\n",
        "b",
        "this WSL 2 machine",
    ]
    assert len(findings.documents(found)) == 2


EMPTY = status(
    started_wall_s=0.0, wall_s=100.0, settings_source="none", host=None, decision=None, leases=(),
    problems=(), vm_problems=(), actions=(),
)  # fmt: skip


def test_a_status_without_vms() -> None:
    text = daemon_status.text(replace(EMPTY, vms=(), problems=("\x1b",)), 101.0)
    assert text.startswith("giveback daemon: up 1 min 41 s, settings none, 0 VMs, looked 1 s ago")
    assert text.endswith("no VM runs on this host\n\nproblems:\n  \\x1b")


def test_a_status_shows_the_origin_and_the_rest_of_each_urgency() -> None:
    vms = (
        vm_status("web", 1, urgency=2, urgency_by="manual", urgency_left_s=43.0),
        vm_status("db", 2, urgency=1, urgency_by="reclaim", urgency_left_s=12.0),
        vm_status("calm", 3, urgency=0, urgency_by="host"),
        vm_status("bare", 4, urgency=None),
    )
    text = daemon_status.text(replace(EMPTY, vms=vms), 101.0)
    _, _, listed = text.partition("urgencies that are not the host's own:\n")
    assert listed.splitlines()[:2] == [
        "  web: 2, set manually, for 43 s more",
        "  db: 1, set by `giveback reclaim`, for 12 s more",
    ]
    assert "urgencies" not in daemon_status.text(replace(EMPTY, vms=vms[2:]), 101.0)


@given(st.text(max_size=50), st.integers(0, 3))
def test_a_status_is_printable_whatever_a_vms_name(name: str, urgency: int) -> None:
    vm = vm_status(
        name, key=name, ram_bytes=GIB, resident_bytes=None, needed_bytes=MIB, residue_bytes=MIB,
        urgency=urgency, condition=VmCondition.SILENT, condition_text=name, doctor=(name,),
    )  # fmt: skip
    done = action(
        vm=name, expected_bytes=2 * MIB, measured_bytes=MIB, reason=name, verdict=name,
    )  # fmt: skip
    lease = Lease(name, 7, 99, ActionKind.BALLOON, "/run/qmp", GIB, MIB, 0.0)
    decision = Decision(urgency, MIB, 1.0, (Ask(name, urgency, MIB, name),), name, 10.0)
    found = replace(
        EMPTY,
        vms=(vm,),
        actions=(done,),
        leases=(lease,),
        decision=decision,
        vm_problems=(name,),
    )
    lines = daemon_status.text(found, 100.0).split("\n")
    assert all(line.isprintable() for line in lines)
    assert sum("ask: 1 MiB of 2 MiB" in line for line in lines) == 1


def test_the_result_of_a_request() -> None:
    parts = (Returned("a", MIB, MIB, "\x1b", 1), Returned("long", MIB, 2 * MIB, "", 2))
    result = ReclaimResult(9 * MIB, 3 * MIB, 1.0, parts, 4 * MIB, 5 * MIB, 6 * MIB, GIB, 2 * GIB)
    assert reclaimed.text(result).splitlines() == [
        "long      2 MiB of 1 MiB  urgency 2",
        "a         1 MiB of 1 MiB  urgency 1: \\x1b",
        "3 MiB of 9 MiB from those asked in 1 s: not reached, at most 4 MiB could come",
        "5 MiB came from VMs that had not been asked",
        "VMs grew by 6 MiB meanwhile",
        "the host has 2.0 GiB available, 1.0 GiB more than before",
    ]
    less = replace(result, available_before_bytes=2 * GIB, available_after_bytes=GIB)
    assert "1.0 GiB less than before" in reclaimed.text(less)


def test_a_plan_shows_the_amount_and_cost_of_each_vm() -> None:
    parts = (Returned("a", 0, 0, "not asked: no agent"), Returned("b", MIB, 0, "1 MiB cold", 1))
    plan = ReclaimResult(9 * MIB, 0, 0.1, parts, MIB, dry_run=True)
    assert reclaimed.text(plan).splitlines() == [
        "b      1 MiB  urgency 1: 1 MiB cold",
        "a      0 KiB  not asked: no agent",
        "dry run, nothing was asked: 1 MiB can come of 9 MiB wanted: not enough",
    ]
    assert reclaimed.announcement(plan) == ("at most 1 MiB of 9 MiB can come: asking 1 VM for that")
    none = replace(plan, parts=parts[:1], most_bytes=0)
    assert "no VM can be asked for any of 9 MiB" in reclaimed.text(none)


def test_changes_are_safe_to_print() -> None:
    assert changes.difference("-a\n+\x1bb") == "-a\n+\\x1bb"
    channel = Channel(ChannelKind.VIRTIO_SERIAL, path="/run/\x1b")
    assert "/run/\\x1b" in changes.plugged(channel, "qemu")
    assert "next start" not in changes.plugged(channel, "libvirt")
