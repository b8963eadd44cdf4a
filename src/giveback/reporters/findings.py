"""Why memory does not come back: each finding with its evidence and remedy; `giveback doctor` shows it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.accounting.diagnosis import Finding
    from giveback.accounting.observation import Observation

    Found = Sequence[tuple[Observation, Sequence[Finding]]]

_MACHINE = "this WSL 2 machine"


def text(found: Found, machine: Sequence[Finding] | None = None) -> str:
    """Return the findings of each VM, then those of the machine (None if it is not WSL 2)."""
    texts = ["\n".join(_of_vm(seen, listed)) for seen, listed in found]
    if machine:
        texts.append("\n".join([_MACHINE, *_lines(machine)]))
    return "\n".join(texts) or "no VM runs on this host"


def _of_vm(seen: Observation, listed: Sequence[Finding]) -> list[str]:
    name = f"{escape_for_terminal(seen.vm.name, 60)} (pid {seen.vm.pid}, {seen.vm.backend})"
    return [name, *_lines(listed)] if listed else [f"{name}: nothing found that keeps memory"]


def _lines(listed: Sequence[Finding]) -> list[str]:
    lines = []
    for finding in listed:
        lines += [
            f"  {finding.severity}: {escape_for_terminal(finding.what, 300)}",
            f"      evidence: {escape_for_terminal(finding.evidence, 400)}",
            f"      remedy:   {escape_for_terminal(finding.remedy, 400)}",
            *(f"          {escape_for_terminal(line, 300)}" for line in finding.commands),
            f"      more:     {finding.read_more}",
        ]
    return lines


def documents(found: Found, machine: Sequence[Finding] | None = None) -> list[dict[str, object]]:
    """Return an object for each VM, and one for the machine unless that is None, for `--json`."""
    listed: list[dict[str, object]] = [
        {
            "name": seen.vm.name,
            "pid": seen.vm.pid,
            "vmm": seen.vm.backend,
            "findings": [asdict(finding) for finding in of_vm],
        }
        for seen, of_vm in found
    ]
    if machine is not None:
        listed.append({"name": _MACHINE, "findings": [asdict(one) for one in machine]})
    return listed
