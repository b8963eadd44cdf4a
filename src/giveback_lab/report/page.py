"""A run as one HTML page that needs nothing else: no network, no fonts, no script to be read. Pure.

All text is escaped; its policy lets the browser run the page's own script and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.report.figure import CSS_NAMES, run_figure
from giveback_lab.report.page_parts import SCRIPT, STYLE
from giveback_lab.report.painting import inline_svg, size_of
from giveback_lab.report.run import GIB, MIB
from giveback_lab.report.table import table_rows
from giveback_lab.report.words import clean_text, headline, setting_text, summary_lines

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from giveback_lab.report.run import DemoRun, VmRun

# (class, width, plot height) in points: which is seen is the style sheet's choice.
CHARTS = (("large", 860.0, 310.0), ("medium", 560.0, 270.0), ("small", 330.0, 230.0))
MOST_DMESG_LINES = 200

METHOD = (
    (
        "Resident is read on the host, about once a second, from /proc/PID/smaps: the mapping "
        "that is the guest's RAM, a memfd, and not the whole process. Non-free and reserved are "
        "the guest's own MemTotal and MemFree. Residue is what is left when both are taken from "
        "resident: memory that the host holds and nobody uses."
    ),
    (
        "What the VM needs is reserved memory, what its kernel cannot reclaim, and the files "
        "that the work still reads. Returnable is what was resident beyond that at the work's "
        "end."
    ),
)


def write_page(run: DemoRun, path: Path, command: str | None = None) -> None:
    """Write the page as UTF-8. Raises InputError where `path` cannot be written."""
    try:
        path.write_text(render_page(run, command), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: name a folder that can be written") from error


def render_page(run: DemoRun, command: str | None = None) -> str:
    """The page; `command` is what reproduces the run, by default made from the run itself."""
    title = escape(headline(run))
    told = [line for line in summary_lines(run) if line != f"{headline(run)}."]
    body = "\n".join(
        (
            "<header>",
            '<p class="kicker">giveback: a VM\'s unused memory, back to its host</p>',
            f"<h1>{title}</h1>",
            *(f"<p>{escape(line)}</p>" for line in told),
            "</header>",
            "<main>",
            _chart(run),
            _figures(run),
            _dmesg(run),
            _method(run),
            _versions(run),
            "<h2>Reproduce</h2>",
            f"<pre><code>{escape(clean_text(command or demo_command(run), 1000))}</code></pre>",
            "</main>",
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="samples">{_samples(run)}</script>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def demo_command(run: DemoRun) -> str:
    """The command that repeats the run, as far as the run itself says."""
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


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _chart(run: DemoRun) -> str:
    about = " ".join(("Guest memory resident on the host over time.", *summary_lines(run)))
    charts = [_svg(run, *chart, f"{headline(run)}. {about}") for chart in CHARTS]
    caption = f"Guest memory resident on the host. {setting_text(run)}."
    return (
        f'<figure>\n<figcaption class="note">{escape(caption)}</figcaption>\n'
        + "\n".join(charts)
        + '\n<p class="readout"></p>\n</figure>'
    )


def _svg(run: DemoRun, name: str, width: float, height: float, about: str) -> Markup:
    """The chart as `<svg>`: it says where its axes are, so that a script finds the value at a point."""
    figure = run_figure(run, width, height, titled=False)
    plot, (wide, high) = figure.axes[0], size_of(figure)
    box = plot.get_position()
    at = (wide * box.x0, high * (1 - box.y1), wide * box.width, high * box.height)
    attributes = {
        "class": name,
        "role": "img",
        "aria-label": about,
        "data-plot": " ".join(f"{value:.1f}" for value in at),
        "data-span": " ".join(f"{t_s:.1f}" for t_s in plot.get_xlim()),
    }
    return inline_svg(figure, name, attributes, CSS_NAMES)


def _figures(run: DemoRun) -> str:
    rows = table_rows(run)
    if not rows:
        return ""
    heads = "".join(f'<th scope="col" class="{vm.name}">{vm.name}</th>' for vm in run.vms)
    lines = []
    for row in rows:
        key = ' class="key"' if row.label.startswith(("resident now", "residue")) else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row.cells)
        name = f"{escape(row.label)}<small>{escape(row.meaning)}</small>"
        lines.append(f'<tr{key}><th scope="row">{name}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        '<h2 id="figures">Figures</h2>\n<div class="scroll"><table aria-labelledby="figures">\n'
        f'<thead><tr><th scope="col"><span aria-hidden="true"></span></th>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _dmesg(run: DemoRun) -> str:
    told = [vm for vm in run.vms if vm.dmesg]
    if not told:
        return ""
    parts = ["<h2>What the guest's own kernel log says</h2>"]
    for vm in told:
        lines = [escape(clean_text(line)) for line in vm.dmesg[-MOST_DMESG_LINES:]]
        parts.append(f'<p class="note">dmesg in the {vm.name} VM</p>')
        parts.append(f'<pre tabindex="0">{chr(10).join(lines)}</pre>')
    return "\n".join(parts)


def _method(run: DemoRun) -> str:
    described = "; ".join(f"{vm.name}: {clean_text(vm.description)}" for vm in run.vms)
    alike = "Both VMs have the same RAM and did the same seeded work at the same time" if (
        len(run.vms) > 1
    ) else "One VM did seeded work"  # fmt: skip
    paragraphs = (f"{alike} ({described}).", *METHOD)
    told = "\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)
    return f"<h2>How it was measured</h2>\n{told}"


def _versions(run: DemoRun) -> str:
    rows = (
        ("giveback", run.giveback_version),
        ("QEMU", f"{run.qemu_version}, accelerator {run.accel}"),
        ("guest kernel", run.kernel_release),
        ("guest", setting_text(run).split(", QEMU", maxsplit=1)[0]),
        ("host", run.host),
        ("seed", str(run.seed)),
        ("started", run.started_at),
    )
    told = "\n".join(f"<dt>{name}</dt><dd>{escape(clean_text(value))}</dd>" for name, value in rows)
    return f"<h2>Versions</h2>\n<dl>\n{told}\n</dl>"


def _samples(run: DemoRun) -> str:
    text = json.dumps([_series(vm) for vm in run.vms], separators=(",", ":"))
    # Nothing in a script element may look like markup.
    return text.replace("<", "\\u003c")


def _series(vm: VmRun) -> dict[str, object]:
    residues = [sample.residue_bytes for sample in vm.samples]
    return {
        "name": vm.name,
        "t_s": [round(sample.t_s, 1) for sample in vm.samples],
        "resident_mib": [round(sample.resident_bytes / MIB) for sample in vm.samples],
        "residue_mib": [None if r is None else round(r / MIB) for r in residues],
    }
