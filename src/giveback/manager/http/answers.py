"""What the API answers: the types that are not the manager's own, and all of them as JSON bytes.

Every field by its name, amounts in bytes, unknown is null.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, make_dataclass
from types import GenericAlias
from typing import TYPE_CHECKING, get_type_hints

from pydantic_core import to_jsonable_python

from giveback.manager.history.schema import HOST_COLUMNS, VM_COLUMNS
from giveback.manager.model import ManagerAction, ReclaimResult, VmStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


def encoded(value: object) -> bytes:
    """Return a value's JSON. Text that is no UTF-8 is made some; numbers that are none are null."""
    plain = to_jsonable_python(value, inf_nan_mode="null")
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False)
    # Names come from the command lines of others.
    return text.encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal (RFC 9457). `detail` says what is wrong, and what to do."""

    type: str
    title: str
    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Vms:
    """The VMs alone."""

    vms: tuple[VmStatus, ...]


@dataclass(frozen=True, slots=True)
class UrgencySet:
    """What one guest was told."""

    key: str
    urgency: int
    lease_s: float


def _record(name: str, fields: Mapping[str, object]) -> type:
    """Return the type of an answer that is made of another's fields, or of a table's columns."""
    return make_dataclass(name, list(fields.items()), frozen=True, slots=True)


def _rows(name: str, fields: Mapping[str, object]) -> object:
    return GenericAlias(list, (_record(name, fields),))


_NUMBER = float | None
Reclaimed = _record("Reclaimed", {**get_type_hints(ReclaimResult), "reached": bool})
History = _record(
    "History",
    {
        "from_s": int,
        "to_s": int,
        "step_s": int,
        "vm": str | None,
        "host": _rows("HistoryHost", {"at_s": int, **dict.fromkeys(HOST_COLUMNS, _NUMBER)}),
        "samples": _rows(
            "HistorySample",
            {"key": str, "at_s": int, **dict.fromkeys(VM_COLUMNS, _NUMBER), "condition": str},
        ),
        # A kind that another version wrote may be none of today's.
        "actions": _rows("HistoryAction", {**get_type_hints(ManagerAction), "kind": str}),
        "vms": _rows(
            "HistoryVm", {"key": str, "name": str, "backend": str, "first_s": int, "last_s": int}
        ),
    },
)
