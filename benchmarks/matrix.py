"""Run one workload on every kernel, machine and guest of the lab: one row each, unattended.

    .venv/bin/python benchmarks/matrix.py [--rows all|7.3,arm64-16k,6.12-amd64-small] [--out FOLDER]
        [--at-once 2]

Started again, it measures only rows that are missing, that failed, or that were measured with
another agent (`--again`: all). `--page docs/kernels.md` writes the table of all stored rows between
the page's markers; with `--report-only` nothing is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from giveback.arguments import size_of
from giveback.errors import InputError
from giveback.interrupts import run_interruptible
from giveback_kernel.errors import GivebackError
from giveback_lab.matrix.measure import measured, prepared, version_of
from giveback_lab.matrix.results import RowResult, RowStore
from giveback_lab.matrix.rows import ROWS, MatrixRow, rows_of
from giveback_lab.matrix.table import spliced, table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="all", help="names, or parts of names (default: all)")
    parser.add_argument("--out", type=Path, default=Path("giveback-matrix"))
    parser.add_argument("--mem", default="1G")
    parser.add_argument("--at-once", type=int, default=2, help="guests side by side")
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    parser.add_argument(
        "--page", type=Path, help="write the table into this page, between its markers"
    )
    args = parser.parse_args()
    try:
        store, rows = RowStore(args.out), rows_of(args.rows)
        if not args.report_only:
            mem_bytes = size_of(args.mem, "--mem")
            run_interruptible(measure_all(rows, store, mem_bytes, args.at_once, args.again))
        stored = [store.read(row) for row in dict.fromkeys((*ROWS, *rows))]
        results = [one for one in stored if one is not None]
        text = table(results)
        print(text)
        if args.page is not None:
            args.page.write_text(spliced(args.page.read_text(), text))
    except (GivebackError, OSError) as error:
        print(f"matrix: {error}", file=sys.stderr)
        return 2
    missing = [row.key for row in rows if row not in {r.row for r in results if r.figures}]
    if missing:
        print(f"without figures: {', '.join(missing)}")
    return int(bool(missing))


async def measure_all(
    rows: tuple[MatrixRow, ...], store: RowStore, mem_bytes: int, at_once: int, again: bool
) -> None:
    """Measure the rows, some side by side; each is stored when it ends."""
    waiting = iter(enumerate(rows, 1))

    async def take_rows() -> None:
        for number, row in waiting:
            began_s = time.monotonic()
            result = await measure_one(row, store, mem_bytes, again)
            said = "kept" if result is None else result.failure or "done"
            took_s = time.monotonic() - began_s
            print(f"[{number}/{len(rows)}] {row.key}: {said} ({took_s:.0f} s)", flush=True)

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, at_once)):
            group.create_task(take_rows())


async def measure_one(
    row: MatrixRow, store: RowStore, mem_bytes: int, again: bool
) -> RowResult | None:
    """Measure and store a row; return None if it is already stored."""
    try:
        lab, accel = await prepared(row, lambda _: None)
    except InputError as error:
        result = RowResult(row, "", 0.0, None, str(error)[:200])
        store.write(result)
        return result
    version = version_of(lab.emulator.version, mem_bytes)
    if not again and store.is_done(row, version):
        return None
    result = await measured(row, lab, accel, mem_bytes, version)
    store.write(result)
    return result


if __name__ == "__main__":
    sys.exit(main())
