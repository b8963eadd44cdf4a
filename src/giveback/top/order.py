"""Which VMs are shown, and in which order. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from giveback.top.model import TopVm

_Value = float | str | None


@dataclass(frozen=True, slots=True)
class SortKey:
    """One order: its name on the screen and on the command line, and what it compares."""

    name: str
    value: Callable[[TopVm], _Value]
    is_number: bool = True


def _part(name: str) -> Callable[[TopVm], _Value]:
    return lambda vm: None if vm.parts is None else getattr(vm.parts, name)


SORTS = (
    SortKey("trapped", _part("trapped_bytes")),
    SortKey("name", lambda vm: vm.name.lower(), is_number=False),
    SortKey("owner", lambda vm: vm.owner.lower() or None, is_number=False),
    SortKey("ram", lambda vm: vm.ram_bytes),
    SortKey("resident", lambda vm: vm.resident_bytes),
    SortKey("needed", _part("needed_bytes")),
    SortKey("cache", _part("cache_bytes")),
    SortKey("returned", _part("returned_bytes")),
    SortKey("pressure", lambda vm: vm.stall_percent),
    SortKey("condition", lambda vm: vm.condition or None, is_number=False),
)
"""The first is the order without a choice: what the host holds but no guest uses."""
BY_NAME = {sort.name: sort for sort in SORTS}


@dataclass(frozen=True, slots=True)
class TopView:
    """The operator's choice of VMs and order."""

    sort: str = SORTS[0].name
    is_reversed: bool = False
    words: str = ""
    """Each of its words must be in a VM's name, owner, condition or hypervisor; -word must not."""


def chosen(vms: Iterable[TopVm], view: TopView) -> tuple[TopVm, ...]:
    """Return the VMs that the view's words select, in its order: unknown values last either way."""
    found = [vm for vm in vms if matches(vm, view.words)]
    found.sort(key=lambda vm: (vm.name.lower(), vm.pid, vm.key))
    sort = BY_NAME.get(view.sort, SORTS[0])
    known = [(value, vm) for vm in found if (value := sort.value(vm)) is not None]
    unknown = [vm for vm in found if sort.value(vm) is None]
    # Numbers from the largest, text from A; a stable sort keeps equal ones by name.
    known.sort(key=lambda pair: _rank(pair[0]), reverse=sort.is_number != view.is_reversed)
    return (*(vm for _, vm in known), *unknown)


def _rank(value: _Value) -> tuple[float, str]:
    return (0.0, value) if isinstance(value, str) else (value or 0.0, "")


def matches(vm: TopVm, words: str) -> bool:
    """Return whether a VM has all the words, whatever their case, and none of the -words."""
    text = f"{vm.name}\n{vm.owner}\n{vm.condition}\n{vm.backend}\n{vm.key}".lower()
    for word in words.lower().split():
        is_without = word.startswith("-") and len(word) > 1
        if word[1:] in text if is_without else word not in text:
            return False
    return True


def next_sort(view: TopView, steps: int = 1) -> str:
    """Return the name of the order that follows the view's."""
    names = [sort.name for sort in SORTS]
    at = names.index(view.sort) if view.sort in names else 0
    return names[(at + steps) % len(names)]
