"""Each field of the manager's records is assigned by its own record, and nowhere else.

Read from the syntax trees: an assignment in a path that no test takes counts as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from giveback.manager.decide.request import ReclaimRequest
from giveback.manager.fleet.channel_state import ChannelState
from giveback.manager.fleet.fleet import Watched
from giveback.manager.fleet.guest_state import GuestState
from giveback.manager.fleet.host_sample import HostSample
from giveback.manager.fleet.vmm_state import VmmState

MANAGER = Path(__file__).parents[3] / "src/giveback/manager"
MODULES = sorted(MANAGER.rglob("*.py"))
RECORDS = (ChannelState, GuestState, HostSample, ReclaimRequest, VmmState, Watched)
NAMES = {record.__name__ for record in RECORDS}
FIELDS = {field for record in RECORDS for field in record.__slots__}


def strangers(source: str) -> list[str]:
    """Return each place that assigns or deletes a record's field from outside of the record.

    Inside, `self` is the record. `self` of another class is something else, so long as no class
    inherits from a record: that is a stranger, too, and so is what hides a field's name.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if node.attr in FIELDS and not is_self:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in {"setattr", "delattr", "__setattr__", "__delattr__", "__dict__"}:
                found.append(f"line {node.lineno}: {name}")
        elif isinstance(node, ast.ClassDef) and NAMES & {ast.unparse(base) for base in node.bases}:
            found.append(f"line {node.lineno}: class {node.name} inherits from a record")
    return found


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(MANAGER)) for p in MODULES])
def test_a_records_fields_are_assigned_by_the_record(path: Path) -> None:
    assert strangers(path.read_text()) == []


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_has_no_fields_but_its_slots(record: type) -> None:
    """Else a field could be added from outside; and each of a thousand VMs would pay for a dict."""
    assert "__dict__" not in dir(record)
    assert record.__mro__ == (record, object)


@pytest.mark.parametrize(
    "source",
    [
        "vm.host.due_s = 1.0",
        "vm.host.due_s: float = 1.0",
        "vm.guest.missed += 1",
        "del vm.channel.session",
        "x = vm.channel.session = None",
        "a, (b, *vm.request.promise) = x",
        "for vm.request.manual_urgency in (1, 2): pass",
        "with open(x) as vm.host.bound: pass",
        "self.vm.host.counts = x",
        "[0 for vm.vmm.state in x]",
        "setattr(vm.host, 'counts', x)",
        "object.__setattr__(vm, 'view', x)",
        "class Mine(HostSample): pass",
    ],
)
def test_no_assignment_hides(source: str) -> None:
    assert len(strangers(source)) == 1


def test_reading_and_calling_is_free() -> None:
    assert strangers("self.host = vm.host.counts; vm.host.take(x, 1.0, 2); y[vm.key] = 1") == []
