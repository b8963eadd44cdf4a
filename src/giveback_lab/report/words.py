"""What happened, as text: sizes, the headline, the sentences below it. Pure.

Text that came from a guest goes through `escape_for_terminal` before it is shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import GIB, MIB
from giveback_lab.report.run import run_figures

if TYPE_CHECKING:
    from giveback_lab.report.run import DemoRun, MarkKind, VmFigures, VmName

UNKNOWN = "-"
KIND_WORDS: dict[MarkKind, str] = {
    "reclaim": "reclaim",
    "compact": "compact",
    "report": "report",
    "deep": "deep report",
    "restore": "restore order",
    "work-phase": "work",
}


def action_text(kind: MarkKind, label: str) -> str:
    """Return the agent's label of an action, shortened by its kind and its reason.

    `reclaim 64 MiB: cold cache` is `64 MiB` beside other reclaims; `compact: trapped` is `trapped`;
    `lower the report order to 0: idle` is `order 0`.
    """
    rest = re.sub(rf"^{kind}(?:: ?|$| (?=\d))", "", escape_for_terminal(label, 300))
    rest = re.sub(r"^(lower the )?report order (to )?(?=\d)", "order ", rest)
    what, _, why = rest.partition(": ")
    return escape_for_terminal(what or why, 40, "...")


def mib_text(size_bytes: int | None) -> str:
    """Return a size such as `1409 MiB`, or `-` if it is unknown."""
    return UNKNOWN if size_bytes is None else f"{round(size_bytes / MIB)} MiB"


def sizes_text(*sizes_bytes: int) -> list[str]:
    """Return all sizes in one unit, so that they can be compared: GiB if one of them is large."""
    if max(sizes_bytes) < 0.95 * GIB:
        return [mib_text(size) for size in sizes_bytes]
    return [f"{size / GIB:.1f} GiB" for size in sizes_bytes]


def seconds_text(seconds: float | None) -> str:
    """Return a time such as `9 s`, with a decimal below ten seconds, or `-` if it is unknown."""
    if seconds is None:
        return UNKNOWN
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def percent_text(ratio: float | None) -> str:
    """Return a ratio as a difference: 1.016 is `+1.6 %`; `-` if it is unknown."""
    if ratio is None:
        return UNKNOWN
    percent = round(100 * (ratio - 1), 1)
    return f"{percent:+.1f} %" if percent else "0.0 %"


def back_text(figures: VmFigures, back_s: float | None) -> str:
    """Return when a fraction of the returnable memory was back, or that it was not while watched."""
    if back_s is not None:
        return seconds_text(back_s)
    if figures.returnable_bytes and figures.observed_after_work_s:
        return f"not in {figures.observed_after_work_s:.0f} s"
    return UNKNOWN


def setting_text(run: DemoRun) -> str:
    """Return the machine in one line: RAM, CPUs, QEMU, accelerator, kernel."""
    ram = sorted({vm.ram_bytes for vm in run.vms})
    cpus = f"{run.cpus} CPU{'s' if run.cpus != 1 else ''}"
    parts = [
        " and ".join(ram_text(r) for r in ram) + f" RAM, {cpus}" if ram else cpus,
        f"QEMU {run.qemu_version} ({run.accel})",
        f"Linux {run.kernel_release}",
    ]
    return ", ".join(escape_for_terminal(p, 80) for p in parts)


def ram_text(size_bytes: int) -> str:
    """Return RAM as people name it: `2 GiB`, `768 MiB`."""
    whole = size_bytes % (GIB // 4) == 0 and size_bytes >= GIB
    return f"{size_bytes / GIB:g} GiB" if whole else mib_text(size_bytes)


def headline(run: DemoRun) -> str:
    """Return the finding in one sentence without a full stop; also true for a run that was cut short."""
    now = _now(run)
    if not now:
        return "No samples: the run ended before anything was measured"
    if any(vm.work_end_s is None for vm in run.vms if vm.samples):
        held = [f"{name} held {text}" for name, text in _named_sizes(now)]
        return f"Cut short before the work's end: {', '.join(held)}"
    if "giveback" not in now:
        return f"The plain VM keeps {sizes_text(now['plain'])[0]} after its work"
    if "plain" not in now:
        peak_bytes = _peak_bytes(run, "giveback")
        peak, held_now = sizes_text(peak_bytes, now["giveback"])
        return f"giveback returns to {held_now} from a peak of {peak}"
    plain, giveback = sizes_text(now["plain"], now["giveback"])
    if now["giveback"] > 0.9 * now["plain"]:
        return f"The plain VM holds {plain}, giveback {giveback}"
    return f"The plain VM keeps {plain}, giveback returns to {giveback}"


def summary_lines(run: DemoRun) -> list[str]:
    """Return two or three sentences on what happened; one if little was measured."""
    if not _now(run) or any(vm.work_end_s is None for vm in run.vms if vm.samples):
        return [f"{headline(run)}."]
    figures = {vm.name: f for vm, f in zip(run.vms, run_figures(run), strict=True)}
    lines = [_left_behind(figures), _later(figures)]
    giveback = figures.get("giveback")
    if giveback is not None:
        lines.append(_pace(giveback))
    return [line for line in lines if line]


def _left_behind(figures: dict[VmName, VmFigures]) -> str:
    sizes: dict[VmName, int] = {
        name: f.work_end_bytes for name, f in figures.items() if f.work_end_bytes is not None
    }
    if not sizes:
        return ""
    (first_name, first), *others = _named_sizes(sizes)
    held = [f"{first} resident in the {first_name} VM"]
    held += [f"{size} in the {name} VM" for name, size in others]
    return f"The {'same ' if others else ''}work left {', '.join(held)}."


def _later(figures: dict[VmName, VmFigures]) -> str:
    held = []
    for name, f in figures.items():
        if f.resident_now_bytes is not None:
            idle = "" if f.residue_now_bytes is None else _for_nothing(f.residue_now_bytes)
            held.append(f"the {name} VM holds {mib_text(f.resident_now_bytes)}{idle}")
    watched_s = next(iter(figures.values())).footprint_s
    if not held or not watched_s:
        return ""
    return f"{watched_s:.0f} s after the work, {' and '.join(held)}."


def _for_nothing(residue_bytes: int) -> str:
    return f" ({mib_text(max(0, residue_bytes))} of it free, still held)"


def _pace(giveback: VmFigures) -> str:
    parts = []
    if giveback.half_back_s is not None:
        parts.append(f"half of what it could return was back after {giveback.half_back_s:.0f} s")
        if giveback.ninety_back_s is not None:
            parts[-1] += f" and 90 % after {giveback.ninety_back_s:.0f} s"
    elif giveback.returnable_bytes:
        parts.append(f"less than half came back in {giveback.observed_after_work_s or 0:.0f} s")
    if giveback.slowdown_ratio is not None:
        percent = 100 * (giveback.slowdown_ratio - 1)
        compared = f"{abs(percent):.1f} % {'longer' if percent >= 0 else 'less time'}"
        parts.append(f"its work took {compared} than in the plain VM")
    return f"In the giveback VM {'; '.join(parts)}." if parts else ""


def _now(run: DemoRun) -> dict[VmName, int]:
    return {vm.name: vm.samples[-1].resident_bytes for vm in run.vms if vm.samples}


def _peak_bytes(run: DemoRun, name: VmName) -> int:
    vm = run.vm(name)
    return max((s.resident_bytes for s in vm.samples), default=0) if vm else 0


def _named_sizes(sizes_bytes: dict[VmName, int]) -> list[tuple[VmName, str]]:
    return list(zip(sizes_bytes, sizes_text(*sizes_bytes.values()), strict=True))
