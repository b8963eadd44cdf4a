"""A run as JSON and back: a versioned schema, every sample, the figures beside them.

`figures` is there for whoever reads the file and is not read back: it follows from the samples.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar, cast

from giveback.errors import InputError
from giveback_lab.report.run import (
    MARK_KINDS,
    VM_NAMES,
    DemoRun,
    Mark,
    MarkKind,
    Sample,
    VmName,
    VmRun,
    WorkPhase,
    run_figures,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = "giveback-demo"
SCHEMA_VERSION = 1
MOST_BYTES = 1 << 62

_T = TypeVar("_T")


def to_json(run: DemoRun) -> str:
    """The run as JSON, a sample a line. Raises ValueError where a time is not finite."""
    head = {"schema": SCHEMA, "version": SCHEMA_VERSION, **asdict(run)}
    vms = head.pop("vms")
    for vm, vm_figures in zip(vms, run_figures(run), strict=True):
        vm["figures"] = asdict(vm_figures)
    head_text = json.dumps(head, indent=1, allow_nan=False)
    vms_text = ",\n".join(_vm_text(vm) for vm in vms)
    return f'{head_text[:-2]},\n "vms": [\n{vms_text}\n ]\n}}\n'


def from_json(text: str, source: str = "run") -> DemoRun:
    """Read what `to_json` wrote; `source` names it in errors.

    Raises InputError, which says where, for anything that is not a run of this version.
    """
    try:
        top = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not JSON: {error}") from error
    return _run(_Node(top, source))


def _vm_text(vm: dict[str, object]) -> str:
    lines = []
    for key, value in vm.items():
        if isinstance(value, (list, tuple)) and value:
            items = ",\n".join(f"    {json.dumps(v, allow_nan=False)}" for v in value)
            lines.append(f'   "{key}": [\n{items}\n   ]')
        else:
            lines.append(f'   "{key}": {json.dumps(value, allow_nan=False)}')
    return "  {\n" + ",\n".join(lines) + "\n  }"


class _Node:
    """A JSON value and where it stands, so that an error can say so."""

    def __init__(self, value: object, where: str) -> None:
        self.value = value
        self.where = where

    def wrong(self, expected: str) -> InputError:
        shown = repr(self.value)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        return InputError(f"{self.where}: expected {expected}, got {shown}")

    def __getitem__(self, key: str) -> _Node:
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        if key not in self.value:
            raise InputError(f"{self.where}: {key!r} is missing")
        return _Node(self.value[key], f"{self.where}.{key}")

    def each(self, read: Callable[[_Node], _T]) -> tuple[_T, ...]:
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return tuple(read(_Node(v, f"{self.where}[{i}]")) for i, v in enumerate(self.value))

    def optional(self, read: Callable[[_Node], _T]) -> _T | None:
        return None if self.value is None else read(self)


def _text(node: _Node) -> str:
    if not isinstance(node.value, str):
        raise node.wrong("text")
    return node.value


def _whole(node: _Node) -> int:
    if type(node.value) is not int or not -MOST_BYTES <= node.value <= MOST_BYTES:
        raise node.wrong("a whole number")
    return node.value


def _bytes(node: _Node) -> int:
    value = _whole(node)
    if value < 0:
        raise node.wrong("a number of bytes")
    return value


def _seconds(node: _Node) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise node.wrong("seconds")
    if not math.isfinite(value) or abs(value) > MOST_BYTES:
        raise node.wrong("seconds")
    return float(value)


def _one_of(node: _Node, known: tuple[str, ...]) -> str:
    if node.value not in known:
        raise node.wrong(f"one of {', '.join(known)}")
    return str(node.value)


def _vm_name(node: _Node) -> VmName:
    return cast("VmName", _one_of(node, VM_NAMES))


def _run(node: _Node) -> DemoRun:
    _one_of(node["schema"], (SCHEMA,))
    if node["version"].value != SCHEMA_VERSION:
        raise node["version"].wrong(f"{SCHEMA_VERSION}, the version this giveback reads")
    vms = node["vms"].each(_vm)
    if len({vm.name for vm in vms}) != len(vms):
        raise InputError(f"{node['vms'].where}: the same VM is there twice")
    return DemoRun(
        vms=vms,
        accel=_text(node["accel"]),
        qemu_version=_text(node["qemu_version"]),
        kernel_release=_text(node["kernel_release"]),
        host=_text(node["host"]),
        seed=_whole(node["seed"]),
        cpus=_whole(node["cpus"]),
        started_at=_text(node["started_at"]),
        giveback_version=_text(node["giveback_version"]),
    )


def _vm(node: _Node) -> VmRun:
    samples = node["samples"].each(_sample)
    if any(b.t_s < a.t_s for a, b in pairwise(samples)):
        raise InputError(f"{node['samples'].where}: the samples are not in order of time")
    return VmRun(
        name=_vm_name(node["name"]),
        description=_text(node["description"]),
        ram_bytes=_bytes(node["ram_bytes"]),
        samples=samples,
        marks=node["marks"].each(_mark),
        work_start_s=_seconds(node["work_start_s"]),
        work_end_s=node["work_end_s"].optional(_seconds),
        needed_bytes=node["needed_bytes"].optional(_bytes),
        work_phases=node["work_phases"].each(_phase),
        dmesg=node["dmesg"].each(_text),
    )


def _sample(node: _Node) -> Sample:
    return Sample(
        t_s=_seconds(node["t_s"]),
        resident_bytes=_bytes(node["resident_bytes"]),
        non_free_bytes=node["non_free_bytes"].optional(_bytes),
        reserved_bytes=node["reserved_bytes"].optional(_bytes),
        reportable_bytes=node["reportable_bytes"].optional(_bytes),
        trapped_bytes=node["trapped_bytes"].optional(_bytes),
        cache_bytes=node["cache_bytes"].optional(_bytes),
    )


def _mark(node: _Node) -> Mark:
    return Mark(
        t_s=_seconds(node["t_s"]),
        vm=_vm_name(node["vm"]),
        kind=cast("MarkKind", _one_of(node["kind"], MARK_KINDS)),
        label=_text(node["label"]),
    )


def _phase(node: _Node) -> WorkPhase:
    return WorkPhase(
        name=_text(node["name"]),
        start_s=_seconds(node["start_s"]),
        end_s=node["end_s"].optional(_seconds),
    )
