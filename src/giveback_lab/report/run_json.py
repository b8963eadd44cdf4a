"""Convert a run to JSON and back: a versioned schema, every sample, and the figures.

`figures` is for readers of the file and is not read back: it follows from the samples.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from giveback.errors import InputError
from giveback_lab.report.decode import fault
from giveback_lab.report.run import DemoRun, run_figures

SCHEMA = "giveback-demo"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Head:
    schema: Literal["giveback-demo"]
    version: Literal[1]


_HEAD = TypeAdapter(_Head)
_RUN = TypeAdapter(DemoRun)


def to_json(run: DemoRun) -> str:
    """Return the run as JSON, one sample a line. Raises ValueError if a time is not finite."""
    head = {"schema": SCHEMA, "version": SCHEMA_VERSION, **asdict(run)}
    vms = head.pop("vms")
    for vm, vm_figures in zip(vms, run_figures(run), strict=True):
        vm["figures"] = asdict(vm_figures)
    head_text = json.dumps(head, indent=1, allow_nan=False)
    vms_text = ",\n".join(_vm_text(vm) for vm in vms)
    return f'{head_text[:-2]},\n "vms": [\n{vms_text}\n ]\n}}\n'


def from_json(text: str, source: str = "run") -> DemoRun:
    """Parse the output of `to_json`; `source` names it in errors.

    Raises InputError with the place of the error for anything that is not a run of this version.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not JSON: {error}") from error
    try:
        _HEAD.validate_python(plain)
        run = _RUN.validate_python(plain)
    except ValidationError as error:
        raise InputError(f"{source}: {fault(error)}") from error
    if len({vm.name for vm in run.vms}) != len(run.vms):
        raise InputError(f"{source}: vms: the same VM is there twice")
    for index, vm in enumerate(run.vms):
        if any(b.t_s < a.t_s for a, b in pairwise(vm.samples)):
            raise InputError(f"{source}: vms[{index}].samples: they are not in order of time")
    return run


def _vm_text(vm: dict[str, object]) -> str:
    lines = []
    for key, value in vm.items():
        if isinstance(value, (list, tuple)) and value:
            items = ",\n".join(f"    {json.dumps(v, allow_nan=False)}" for v in value)
            lines.append(f'   "{key}": [\n{items}\n   ]')
        else:
            lines.append(f'   "{key}": {json.dumps(value, allow_nan=False)}')
    return "  {\n" + ",\n".join(lines) + "\n  }"
