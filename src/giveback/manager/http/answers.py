"""What the API answers: the types that are not the manager's own, and all of them to JSON and back.

Every field by its name, amounts in bytes, unknown is null.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from giveback.host.memory import HostView
from giveback.manager.model import ReclaimResult, VmStatus


def plain(value: object) -> object:
    """Return a value as JSON has it; numbers that are none are null."""
    return to_jsonable_python(value, inf_nan_mode="null")


def encoded(value: object) -> bytes:
    """Return a value's JSON. Text that is no UTF-8 is made some; numbers that are none are null."""
    text = json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False)
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


Reclaimed = make_dataclass(
    "Reclaimed",
    [*get_type_hints(ReclaimResult).items(), ("reached", bool)],
    frozen=True,
    slots=True,
)


def reclaimed(result: ReclaimResult) -> object:
    """Return what is sent of a result: its fields, and whether the goal was reached."""
    return Reclaimed(
        **{field.name: getattr(result, field.name) for field in fields(result)},
        reached=result.reached,
    )


@functools.cache
def adapter_of(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401
    """Return an answer's adapter. The manager's data names these two for its type checker only."""
    made = TypeAdapter(kind)
    made.rebuild(_types_namespace={"HostView": HostView, "Mapping": Mapping})
    return made
