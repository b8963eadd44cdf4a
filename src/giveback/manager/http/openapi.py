"""The API described as OpenAPI 3.1, its schemas made of the dataclasses that are sent."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from enum import StrEnum

from giveback.host import memory
from giveback.manager import model
from giveback.manager.history.schema import HOST_COLUMNS, VM_COLUMNS
from giveback.manager.http import requests
from giveback_kernel import __version__

_JSON = "application/json"
_NAMES = {"HostView": memory.HostView, "Mapping": Mapping, "Sequence": Sequence}
_PLAIN: dict[object, dict[str, object]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}
_SENT = (
    memory.HostView, model.Ask, model.Decision, model.Action, model.Lease, model.VmStatus,
    model.DaemonStatus, model.Returned, model.ReclaimResult,
)  # fmt: skip


def schema_of(kind: object) -> dict[str, object]:
    """A type's JSON schema; of a dataclass, a reference to it. Raises TypeError."""
    plain = _PLAIN.get(kind)
    if plain is not None:
        return plain
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [schema_of(one) for one in inner]}
    if origin is tuple:
        return {"type": "array", "items": schema_of(inner[0])}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": schema_of(inner[1])}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"type": "string", "enum": [str(member) for member in kind]}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _reference(kind.__name__)
    raise TypeError(f"{kind!r}: no schema for it")


def _reference(name: str) -> dict[str, object]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(
    properties: Mapping[str, object], required: Sequence[str] | None = None
) -> dict[str, object]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _dataclass(kind: type) -> dict[str, object]:
    """Sent whole: every field is there."""
    hints = typing.get_type_hints(kind, localns=_NAMES)
    schema = _object({name: schema_of(hint) for name, hint in hints.items()})
    return {**schema, "description": (kind.__doc__ or "").strip().partition("\n\n")[0]}


def _schemas() -> dict[str, object]:
    made: dict[str, object] = {kind.__name__: _dataclass(kind) for kind in _SENT}
    result = typing.cast("dict[str, typing.Any]", made["ReclaimResult"])
    result["properties"]["reached"] = {"type": "boolean"}
    result["required"].append("reached")
    seconds = {"type": "number", "exclusiveMinimum": 0}
    made["Vms"] = _object({"vms": {"type": "array", "items": _reference("VmStatus")}})
    made["Problem"] = _object(
        {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong, and what to do."},
        }
    )
    made["ReclaimRequest"] = _object(
        {
            "goal_bytes": {"type": "integer", "minimum": 1, "maximum": requests.GOAL_MOST_BYTES},
            "within_s": {**seconds, "maximum": requests.WITHIN_MOST_S, "default": requests.WITHIN_S},
            "vms": {
                "type": "array", "items": {"type": "string"}, "maxItems": requests.VMS_MOST,
                "default": [], "description": "Names or keys; none is all.",
            },
        },
        ["goal_bytes"],
    )  # fmt: skip
    made["UrgencyRequest"] = _object(
        {
            "urgency": {"type": "integer", "enum": list(model.URGENCIES)},
            "lease_s": {**seconds, "maximum": requests.LEASE_MOST_S, "default": requests.LEASE_S},
        },
        ["urgency"],
    )
    made["UrgencySet"] = _object(
        {"key": _PLAIN[str], "urgency": _PLAIN[int], "lease_s": _PLAIN[float]}
    )
    return {**made, **_history_schemas()}


def _history_schemas() -> dict[str, object]:
    number, text = {"type": ["number", "null"]}, {"type": "string"}
    vm_columns = {name: number for name in VM_COLUMNS if name != "condition"}
    action = typing.get_type_hints(model.Action, localns=_NAMES)
    fields = {name: schema_of(hint) for name, hint in action.items()} | {"kind": text}
    return {
        "HistoryHost": _object({"at_s": _PLAIN[int], **dict.fromkeys(HOST_COLUMNS, number)}),
        "HistorySample": _object(
            {"key": text, "at_s": _PLAIN[int], **vm_columns, "condition": text}
        ),
        "HistoryAction": _object(fields),
        "HistoryVm": _object(
            {"key": text, "name": text, "backend": text, "first_s": _PLAIN[int],
             "last_s": _PLAIN[int]}
        ),
        "History": _object(
            {
                "from_s": _PLAIN[int], "to_s": _PLAIN[int], "step_s": _PLAIN[int],
                "vm": {"type": ["string", "null"]},
                "host": {"type": "array", "items": _reference("HistoryHost")},
                "samples": {"type": "array", "items": _reference("HistorySample")},
                "actions": {"type": "array", "items": _reference("HistoryAction")},
                "vms": {"type": "array", "items": _reference("HistoryVm")},
            }
        ),
    }  # fmt: skip


def _answers(
    schema: Mapping[str, object], *problems: int, media_type: str = _JSON
) -> dict[str, object]:
    found: dict[str, object] = {
        "200": {"description": "As asked.", "content": {media_type: {"schema": schema}}}
    }
    for status in sorted({403, 503, *problems}):
        found[str(status)] = {
            "description": "Refused; `detail` says what to do.",
            "content": {"application/problem+json": {"schema": _reference("Problem")}},
        }
    return found


def _get(
    name: str, summary: str, schema: Mapping[str, object], *problems: int
) -> dict[str, object]:
    return {"operationId": name, "summary": summary, "responses": _answers(schema, *problems)}


def _post(
    name: str, summary: str, body: str, schema: Mapping[str, object], *problems: int
) -> dict[str, object]:
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": {_JSON: {"schema": _reference(body)}}},
        "responses": _answers(schema, 400, 404, 408, 409, 413, 502, *problems),
    }


def _query(name: str, words: str, schema: Mapping[str, object]) -> dict[str, object]:
    return {"name": name, "in": "query", "description": words, "schema": schema}


_KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "A VM's key, percent-encoded; or its name or pid where one VM alone has it.",
    "schema": {"type": "string"},
}


def _paths() -> dict[str, object]:
    text: dict[str, object] = {"type": "string"}
    second: dict[str, object] = {"type": "integer"}
    history = _get("history", "The past", _reference("History"), 400, 404)
    history["parameters"] = [
        _query("since", "How far back: 90s, 15m, 2h, 7d.", {**text, "default": "2h"}),
        _query("from", "Unix time, instead of `since`.", second),
        _query("to", "Unix time; now without it.", second),
        _query("vm", "A VM's name or key: its rows are in `samples`.", text),
    ]
    one_vm = _get("vm", "One VM", _reference("VmStatus"), 404, 409)
    events = "Events status, vm, gone, action, missed; each event's data is one JSON object."
    return {
        "/v1/status": {"get": _get("status", "All that is known now", _reference("DaemonStatus"))},
        "/v1/vms": {"get": _get("vms", "The VMs", _reference("Vms"))},
        "/v1/vms/{key}": {"parameters": [_KEY], "get": one_vm},
        "/v1/vms/{key}/urgency": {
            "parameters": [_KEY],
            "post": _post("urgency", "Tell one guest an urgency by hand; the lease ends it",
                          "UrgencyRequest", _reference("UrgencySet")),
        },
        "/v1/history": {"get": history},
        "/v1/events": {
            "get": {
                "operationId": "events",
                "summary": "What changes, as it does (server-sent events)",
                "responses": _answers({**text, "description": events},
                                      media_type="text/event-stream"),
            }
        },
        "/v1/reclaim": {
            "post": _post("reclaim", "Make room now; answers when it is made, or the time is over",
                          "ReclaimRequest", _reference("ReclaimResult"))
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "For Prometheus",
                "responses": _answers(text, media_type="text/plain"),
            }
        },
        "/openapi.json": {
            "get": _get("openapi", "This description", {"type": "object"}),
        },
    }  # fmt: skip


@functools.cache
def description() -> dict[str, object]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "giveback's host manager",
            "version": __version__,
            "summary": "Gives VMs' unused memory back to their host, and says where every byte is.",
            "description": "Over a unix socket. Who connects decides what is allowed: readers may "
            "GET, writers and root may POST. Amounts are bytes, null is unknown.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "The unix socket's host name."}],
        "paths": _paths(),
        "components": {"schemas": _schemas()},
    }
