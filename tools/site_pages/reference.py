"""Reference pages made from the code: command lines and the API. Settings and metrics have tables in docs."""

from __future__ import annotations

import argparse
import io
from typing import TYPE_CHECKING, Any

from giveback.cli import whole_parser
from giveback.manager.http import openapi
from giveback_agent.__main__ import build_parser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write(folder: Path) -> None:
    """Write every page below a folder, which is made."""
    folder.mkdir()
    for name, parser in (("giveback", whole_parser()), ("giveback-agent", build_parser())):
        (folder / f"{name}.md").write_text(command_page(name, parser))
    (folder / "api.md").write_text(api_page(openapi.description()))


def command_page(name: str, parser: argparse.ArgumentParser) -> str:
    """Return a program's page: the help of each of its commands."""
    parts = [f"# The command `{name}`", parser.description or "", _block(parser)]
    for action in parser._actions:  # noqa: SLF001  # argparse has no other way to its commands
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command, sub in sorted(action.choices.items()):
                parts += [f"## {name} {command}", _block(sub)]
    return "\n\n".join(parts) + "\n"


def _block(parser: argparse.ArgumentParser) -> str:
    out = io.StringIO()
    parser.print_help(out)
    return f"```text\n{out.getvalue().rstrip()}\n```"


def api_page(description: dict[str, Any]) -> str:
    """Return the page of the daemon's API, from its OpenAPI description."""
    lines = [
        "# The daemon's API", "", description["info"]["description"], "",
        "How it is reached, and its limits: [docs](../docs/daemon-surfaces.md).", "",
    ]  # fmt: skip
    for path, item in description["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            lines += [f"## `{method.upper()} {path}`", "", operation["summary"] + ".", ""]
            lines += _parameters([*item.get("parameters", []), *operation.get("parameters", [])])
            lines += _answers(operation)
    lines += ["# What is sent", ""]
    for name, schema in sorted(description["components"]["schemas"].items()):
        lines += [f"## {name}", "", schema.get("description", ""), "", *_fields(schema)]
    return "\n".join(lines) + "\n"


def _parameters(found: list[dict[str, Any]]) -> Iterator[str]:
    if found:
        yield from ("| parameter | in | |", "|---|---|---|")
        for one in found:
            yield f"| `{one['name']}` | {one['in']} | {one.get('description', '')} |"
        yield ""


def _answers(operation: dict[str, Any]) -> Iterator[str]:
    body = operation.get("requestBody")
    if body:
        yield f"Body: {_kind(body['content']['application/json']['schema'])}."
        yield ""
    content = operation["responses"]["200"]["content"]
    for media, one in content.items():
        yield f"Answer: `{media}`, {_kind(one['schema'])}."
    refusals = sorted(set(operation["responses"]) - {"200"})
    yield f"Refusals: {', '.join(refusals)}."
    yield ""


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    properties = schema.get("properties")
    if not properties:
        return
    yield from ("| field | kind |", "|---|---|")
    for name, one in properties.items():
        yield f"| `{name}` | {_kind(one)} |"
    yield ""


def _kind(schema: dict[str, Any]) -> str:
    """Return a schema's kind in words, such as `integer or null`, or the name of another schema."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_kind(one) for one in schema[several])
    if schema.get("type") == "array":
        inner = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list of {_kind(inner)}" if isinstance(inner, dict) else "list"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    return str(schema.get("type", "any"))
