"""Render a run as one HTML page that loads nothing: no network, no fonts, no separate script.

All text is escaped. The page's policy lets the browser run the page's own script only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import GIB, MIB
from giveback_lab.report import html
from giveback_lab.report.figure import CSS_NAMES, run_figure
from giveback_lab.report.painting import inline_svg, size_of
from giveback_lab.report.table import table_rows
from giveback_lab.report.words import headline, setting_text, summary_lines

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from giveback_lab.report.run import DemoRun, VmRun

# (class, width, plot height) in points: the style sheet selects which one is shown.
CHARTS = (("large", 860.0, 310.0), ("medium", 560.0, 270.0), ("small", 330.0, 230.0))
MOST_DMESG_LINES = 200


def write_page(run: DemoRun, path: Path, command: str | None = None) -> None:
    """Write the page as UTF-8. Raises InputError if `path` cannot be written."""
    html.write_page(render_page(run, command), path)


def render_page(run: DemoRun, command: str | None = None) -> str:
    """Return the page. `command` reproduces the run; by default it is derived from the run."""
    script, digest = html.script("demo.js")
    return html.render(
        "demo.html",
        run=run,
        title=headline(run),
        summary=[line for line in summary_lines(run) if line != f"{headline(run)}."],
        setting=setting_text(run),
        charts=[_chart(run, *chart) for chart in CHARTS],
        rows=table_rows(run),
        dmesg=[
            (vm.name, [escape_for_terminal(line, 300) for line in vm.dmesg[-MOST_DMESG_LINES:]])
            for vm in run.vms
            if vm.dmesg
        ],
        described="; ".join(
            f"{vm.name}: {escape_for_terminal(vm.description, 300)}" for vm in run.vms
        ),
        versions=_versions(run),
        command=escape_for_terminal(command or demo_command(run), 1000),
        samples=[_series(vm) for vm in run.vms],
        script=script,
        script_digest=digest,
    )


def demo_command(run: DemoRun) -> str:
    """Return the command that repeats the run, as far as the run records its options."""
    words = ["giveback", "demo"]
    if run.accel in ("kvm", "tcg"):
        words += ["--accel", run.accel]
    if run.vms:
        ram_bytes = run.vms[0].ram_bytes
        whole_gib = ram_bytes % GIB == 0
        words += ["--mem", f"{ram_bytes // GIB}G" if whole_gib else f"{ram_bytes // MIB}M"]
    words += ["--cpus", str(run.cpus), "--seed", str(run.seed)]
    if run.vms and run.vm("plain") is None:
        words.append("--no-compare")
    return " ".join(words)


def _chart(run: DemoRun, css_class: str, width: float, height: float) -> Markup:
    """Return the chart as `<svg>` with its axes' places, so that a script finds the value at a point."""
    figure = run_figure(run, width, height, titled=False)
    plot, (wide, high) = figure.axes[0], size_of(figure)
    box = plot.get_position()
    place = (wide * box.x0, high * (1 - box.y1), wide * box.width, high * box.height)
    about = (f"{headline(run)}.", "Guest memory resident on the host over time.")
    attributes = {
        "class": css_class,
        "role": "img",
        "aria-label": " ".join((*about, *summary_lines(run))),
        "data-plot": " ".join(f"{value:.1f}" for value in place),
        "data-span": " ".join(f"{t_s:.1f}" for t_s in plot.get_xlim()),
    }
    return inline_svg(figure, css_class, attributes, CSS_NAMES)


def _versions(run: DemoRun) -> list[tuple[str, str]]:
    rows = (
        ("giveback", run.giveback_version),
        ("QEMU", f"{run.qemu_version}, accelerator {run.accel}"),
        ("guest kernel", run.kernel_release),
        ("guest", setting_text(run).split(", QEMU", maxsplit=1)[0]),
        ("host", run.host),
        ("seed", str(run.seed)),
        ("started", run.started_at),
    )
    return [(name, escape_for_terminal(value, 300)) for name, value in rows]


def _series(vm: VmRun) -> dict[str, object]:
    residues = [sample.residue_bytes for sample in vm.samples]
    return {
        "name": vm.name,
        "t_s": [round(sample.t_s, 1) for sample in vm.samples],
        "resident_mib": [round(sample.resident_bytes / MIB) for sample in vm.samples],
        "residue_mib": [None if r is None else round(r / MIB) for r in residues],
    }
