"""The figures as files for other programs: CSV of the cells, CSV of the samples, JSON of the verdicts.

The same results make the same bytes. An empty CSV field, or null, means not measured.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.bench.analysis.metrics import FIELDS
from giveback_lab.bench.analysis.statistics import spread_of
from giveback_lab.bench.analysis.targets import harm
from giveback_lab.bench.report.text import (
    METRICS,
    bench_command,
    headline,
    strategy_source,
    strategy_title,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from giveback_lab.bench.analysis.comparable import CellGroup, Measured
    from giveback_lab.bench.analysis.metrics import CellFigures
    from giveback_lab.bench.analysis.targets import TargetFinding
    from giveback_lab.bench.model import CellResult

SCHEMA = 1
WHOLE_HOST = "all"
CELL_COLUMNS = ("kernel", "mem_bytes", "work", "strategy", "round", "vm")
SAMPLE_COLUMNS = (
    *CELL_COLUMNS,
    *("t_s", "resident_bytes", "non_free_bytes", "cache_bytes", "vmm_user_s", "vmm_system_s"),
)


def cells_csv(groups: Sequence[CellGroup]) -> str:
    """Return a row for each VM of each cell, and one for all of them if a cell has several."""
    rows: list[Sequence[object]] = [
        (*CELL_COLUMNS, *FIELDS, "started_at", "took_s", "host_busy_share", "sitting", "problems")
    ]
    for group in groups:
        for cell in group.cells:
            rows += _cell_rows(cell)
    return _csv(rows)


def _cell_rows(cell: Measured) -> list[Sequence[object]]:
    result = cell.result
    of_vms = [(vm.name, figures) for vm, figures in zip(result.vms, cell.vms, strict=False)]
    # For a single VM the cell's figures are used: they include the ratios to `none` that only a
    # cell has.
    named = [(of_vms[0][0], cell.figures)] if len(of_vms) == 1 else [*of_vms]
    if len(of_vms) > 1:
        named.append((WHOLE_HOST, cell.figures))
    end = (
        escape_for_terminal(result.started_at, 40),
        _rounded(result.took_s),
        _rounded(result.host_busy_share),
        escape_for_terminal(result.sitting, 40),
        "; ".join(escape_for_terminal(problem, 200) for problem in result.problems),
    )
    return [(*_key(result, name), *_fields(figures), *end) for name, figures in named]


def _key(result: CellResult, vm_name: str) -> tuple[object, ...]:
    cell = result.cell
    texts = (
        escape_for_terminal(cell.kernel, 20),
        cell.mem_bytes,
        escape_for_terminal(cell.work, 60),
        escape_for_terminal(cell.strategy, 60),
    )
    return (*texts, cell.round, escape_for_terminal(vm_name, 60))


def _fields(figures: CellFigures) -> list[object]:
    return [_rounded(getattr(figures, name)) for name in FIELDS]


def _rounded(value: float | None) -> float | int | None:
    """Round to six digits after the point, below the measurement's precision; integers stay integers."""
    if value is None:
        return None
    near = round(value, 6)
    return int(near) if near == int(near) else near


def samples_csv(results: Sequence[CellResult]) -> str:
    """Return every sample of every VM, of failed cells too."""
    rows: list[Sequence[object]] = [SAMPLE_COLUMNS]
    for result in results:
        for vm in result.vms:
            key = _key(result, vm.name)
            rows += [
                (
                    *key,
                    round(s.t_s, 2),
                    *(s.resident_bytes, s.non_free_bytes, s.cache_bytes),
                    *(round(s.vmm_user_s, 2), round(s.vmm_system_s, 2)),
                )
                for s in vm.samples
            ]
    return _csv(rows)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def gzipped(text: str) -> bytes:
    """Compress without a time stamp, so that the same text makes the same file."""
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def results_json(
    results: Sequence[CellResult],
    groups: Sequence[CellGroup],
    all_findings: Sequence[TargetFinding],
    command: str | None = None,
) -> str:
    """Return verdicts, medians and spreads, failed cells, versions as JSON."""
    names = list(dict.fromkeys(result.cell.strategy for result in results))
    document = {
        "schema": SCHEMA,
        "headline": headline(all_findings),
        "command": command or bench_command(results),
        "versions": versions(results),
        "strategies": {
            escape_for_terminal(name, 60): {
                "title": strategy_title(name),
                "source": strategy_source(name),
            }
            for name in names
        },
        "verdicts": [_finding(finding) for finding in all_findings],
        "settings": [_group(group) for group in groups],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def versions(results: Sequence[CellResult]) -> dict[str, list[str]]:
    """Return the versions of all parts; a part that changed between cells has several."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        for name, version in result.versions.items():
            found.setdefault(escape_for_terminal(name, 60), {})[
                escape_for_terminal(version, 200)
            ] = None
    return {name: list(of_name) for name, of_name in sorted(found.items())}


def _finding(finding: TargetFinding) -> dict[str, object]:
    setting, comparison = finding.setting, finding.comparison
    measured: dict[str, object] = {}
    if comparison is not None:
        measured = {
            "ratio": _rounded(comparison.ratio),
            "low": _rounded(comparison.low),
            "high": _rounded(comparison.high),
            "rounds": comparison.count,
            "giveback": _rounded(comparison.ours),
            "other": _rounded(comparison.theirs),
        }
    return {
        **_setting_key(setting.kernel, setting.mem_bytes, setting.work),
        "target": finding.target.name,
        "promise": finding.target.promise,
        "limit": finding.target.limit,
        "counts": finding.counts,
        "verdict": finding.verdict.value,
        "against": None if finding.against is None else escape_for_terminal(finding.against, 60),
        **measured,
        "grain_bytes": _rounded(finding.grain_bytes),
        "remark": finding.remark,
    }


def _setting_key(kernel: str, mem_bytes: int, work: str) -> dict[str, object]:
    return {
        "kernel": escape_for_terminal(kernel, 20),
        "mem_bytes": mem_bytes,
        "work": escape_for_terminal(work, 60),
    }


def _group(group: CellGroup) -> dict[str, object]:
    setting = group.setting
    return {
        **_setting_key(setting.kernel, setting.mem_bytes, setting.work),
        "after_s": [_rounded(after_s) for after_s in group.after_s],
        "strategies": {
            escape_for_terminal(name, 60): _strategy(group, name) for name in group.strategies
        },
        "failed": [
            {
                "strategy": escape_for_terminal(failed.cell.strategy, 60),
                "round": failed.cell.round,
                "reasons": [escape_for_terminal(reason, 200) for reason in failed.reasons],
            }
            for failed in group.failed
        ],
    }


def _strategy(group: CellGroup, name: str) -> dict[str, object]:
    metrics = {}
    for field in FIELDS:
        spread = spread_of(group.values(name, field).values())
        if spread is not None and field in METRICS:
            metrics[field] = {
                "median": _rounded(spread.median),
                "low": _rounded(spread.low),
                "high": _rounded(spread.high),
                "mad": _rounded(spread.mad),
                "rounds": spread.count,
            }
    return {"rounds": len(group.of(name)), "hurts": list(harm(group, name)), "metrics": metrics}


def write_text(path: Path, text: str) -> Path:
    """Write as UTF-8 with LF newlines. Raises InputError if `path` cannot be written."""
    return write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file and return its path. Raises InputError if `path` cannot be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: name a folder that can be written") from error
    return path
