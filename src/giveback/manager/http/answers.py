"""The API's answers: the types that are not the manager's own, and JSON of all of them.

Fields keep their names; amounts are bytes; an unknown value is null.
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
    """Return a value as JSON's types; numbers that are not finite are null."""
    return to_jsonable_python(value, inf_nan_mode="null")


def encoded(value: object) -> bytes:
    """Return a value's JSON in UTF-8. Invalid characters are replaced; non-finite numbers are null."""
    text = json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False)
    # Names come from command lines of other users, and may hold surrogates.
    return text.encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal as a problem document (RFC 9457). `detail` says what is wrong, and what to do."""

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
    """The urgency that was set for one guest, and its lease in seconds."""

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
    """Return a result as it is sent: with `reached`, which tells whether the goal was reached."""
    return Reclaimed(
        **{field.name: getattr(result, field.name) for field in fields(result)},
        reached=result.reached,
    )


@functools.cache
def adapter_of(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401
    """Return the pydantic adapter of a type of answer."""
    # The manager's data imports these two types for the type checker only.
    made = TypeAdapter(kind)
    made.rebuild(_types_namespace={"HostView": HostView, "Mapping": Mapping})
    return made
