"""The API's resources, and their OpenAPI 3.1 description, made from the types that are sent."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from giveback.manager import model
from giveback.manager.history.records import HistoryFrame, HistorySpan
from giveback.manager.history.usage.totals import UsageReport
from giveback.manager.http import answers, requests
from giveback_kernel import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.json_schema import JsonSchemaMode, JsonSchemaValue
    from pydantic_core import core_schema

JSON = "application/json"
_POST_REFUSALS = (400, 404, 408, 409, 413, 502)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource: a path, and the method of `api.Api` with this name that answers it."""

    path: str
    name: str
    summary: str
    answer: Any
    """A type; or a description, if the answer is not JSON."""
    body: type | None = None
    query: type | None = None
    refusals: tuple[int, ...] = ()
    media_type: str = JSON

    @property
    def method(self) -> str:
        """GET, or POST if there is a body."""
        return "POST" if self.body else "GET"


RESOURCES = (
    Resource(
        path="/v1/status", name="status", summary="The daemon's whole status",
        answer=model.DaemonStatus,
    ),
    Resource(path="/v1/vms", name="vms", summary="The VMs", answer=answers.Vms),
    Resource(
        path="/v1/vms/{key}/urgency", name="urgency",
        summary="Set one guest's urgency manually, also below its floor; the lease ends it",
        body=requests.UrgencyBody, answer=answers.UrgencySet, refusals=_POST_REFUSALS,
    ),
    Resource(
        path="/v1/vms/{key}", name="vm", summary="One VM",
        answer=model.VmStatus, refusals=(404, 409),
    ),
    Resource(
        path="/v1/history", name="history", summary="Recorded history of the host, or of one VM",
        query=requests.HistoryQuery, answer=HistorySpan, refusals=(400, 404),
    ),
    Resource(
        path="/v1/history/frame", name="frame", summary="All VMs at one recorded moment",
        query=requests.FrameQuery, answer=HistoryFrame, refusals=(400, 404),
    ),
    Resource(
        path="/v1/usage", name="usage",
        summary="What every VM and owner used over days, and the RAM that would have sufficed",
        query=requests.UsageQuery, answer=UsageReport, refusals=(400, 404),
    ),
    Resource(
        path="/v1/events", name="events",
        summary="Changes as they happen (server-sent events)",
        answer="Events status, vm, gone, action, missed; each event's data is one JSON object.",
        media_type="text/event-stream",
    ),
    Resource(
        path="/v1/reclaim", name="reclaim",
        summary="Free memory now; the answer comes once enough was freed, or the time is over",
        body=requests.ReclaimBody, answer=answers.Reclaimed, refusals=_POST_REFUSALS,
    ),
    Resource(
        path="/metrics", name="metrics", summary="Metrics for Prometheus",
        answer="Prometheus's text format.", media_type="text/plain",
    ),
    Resource(
        path="/openapi.json", name="openapi", summary="This description", answer=dict[str, Any]
    ),
)  # fmt: skip
_KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "A VM's key, percent-encoded; or its name or pid, if no other VM has the same.",
    "schema": {"type": "string"},
}


class _Exact(GenerateJsonSchema):
    """Schemas without additional properties; in answers all properties are required."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Return False: titles would repeat the names."""
        del schema
        return False

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        """Return the schema of a dataclass; answers always have all fields, with or without default."""
        made = super().dataclass_schema(schema)
        whole = {"required": list(made["properties"])} if self.mode == "serialization" else {}
        return made | whole | {"additionalProperties": False}


def schemas_of(
    types: Mapping[str, tuple[Any, JsonSchemaMode]],
) -> tuple[dict[str, JsonSchemaValue], JsonSchemaValue]:
    """Return each type's schema by its key, and the components that they refer to.

    Raises PydanticUserError for a type that JSON cannot express.
    """
    inputs = [(key, mode, answers.adapter_of(kind)) for key, (kind, mode) in types.items()]
    found, whole = TypeAdapter.json_schemas(
        inputs, ref_template="#/components/schemas/{model}", schema_generator=_Exact
    )
    return {key: schema for (key, _), schema in found.items()}, whole["$defs"]


def _operation(resource: Resource, schemas: Mapping[str, JsonSchemaValue]) -> dict[str, Any]:
    answer = schemas.get(resource.name) or {"type": "string", "description": resource.answer}
    problem = {"application/problem+json": {"schema": schemas["problem"]}}
    responses: dict[str, Any] = {
        "200": {"description": "As asked.", "content": {resource.media_type: {"schema": answer}}}
    }
    for status in sorted({403, 503, *resource.refusals}):
        responses[str(status)] = {
            "description": "Refused; `detail` says what to do.",
            "content": problem,
        }
    made: dict[str, Any] = {
        "operationId": resource.name,
        "summary": resource.summary,
        "responses": responses,
    }
    if resource.body:
        content = {JSON: {"schema": schemas[f"{resource.name} body"]}}
        made["requestBody"] = {"required": True, "content": content}
    if resource.query:
        made["parameters"] = _parameters(resource.query)
    return made


def _parameters(query: type) -> list[dict[str, Any]]:
    properties = TypeAdapter(query).json_schema(schema_generator=_Exact)["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "description": schema.pop("description"),
            # An empty default means that the parameter was not given; it is left out.
            "schema": {w: value for w, value in schema.items() if value or w != "default"},
        }
        for name, schema in properties.items()
    ]


@functools.cache
def description() -> dict[str, Any]:
    """Return the whole document."""
    types: dict[str, tuple[Any, JsonSchemaMode]] = {"problem": (answers.Problem, "serialization")}
    for one in RESOURCES:
        if not isinstance(one.answer, str):
            types[one.name] = one.answer, "serialization"
        if one.body:
            types[f"{one.name} body"] = one.body, "validation"
    schemas, components = schemas_of(types)
    paths: dict[str, Any] = {}
    for one in RESOURCES:
        path = paths.setdefault(one.path, {"parameters": [_KEY]} if "{key}" in one.path else {})
        path[one.method.lower()] = _operation(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "giveback's host manager",
            "version": __version__,
            "summary": "Returns VMs' unused memory to their host, and shows where every byte is.",
            "description": "Over a unix socket. The client's user decides what is allowed: readers may "
            "GET, writers and root may also POST. Amounts are bytes; null is unknown.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "The unix socket's host name."}],
        "paths": paths,
        "components": {"schemas": components},
    }
