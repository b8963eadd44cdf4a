"""Where every byte of a VM is: from what the host charges down to what the guest needs.

The rows add up exactly, to the VM's RAM and to what the host charges; docs/ledger.md defines them.
--exact joins page by page: the guest's agent tells what each page is used for (or --guest FILE does,
made in the guest by `giveback-agent picture --pages`), and the host's page tables what it holds.
With --watch it is done again and again, and free pages that stay resident show their age.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from giveback.accounting.diagnosis import Remedy, remedies
from giveback.accounting.ledger import NEEDED, RESIDUE, Key, Row
from giveback.commands import _target
from giveback.errors import InputError, VmError
from giveback.text import shown, size

if TYPE_CHECKING:
    import argparse

    from giveback.accounting.observation import Observation
    from giveback.accounting.page_ledger import Ages

HELP = "where every byte of a VM is, and what would bring it back"
_BAR = 24
_COST = frozenset(
    {
        Key.RAM_SWAPPED, Key.VMM, Key.VMM_SHARED, Key.VMM_SWAPPED, Key.PAGE_TABLES, Key.UNPLACED,
    }
)  # fmt: skip


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    _target.add_arguments(parser)
    parser.add_argument("--exact", action="store_true", help="page by page")
    parser.add_argument(
        "--watch",
        type=_target.seconds,
        metavar="SECONDS",
        nargs="?",
        const=30.0,
        help="again every SECONDS (30); with --exact, the age of free pages that stay resident",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    parser.add_argument("--svg", metavar="FILE", help="also draw it, as SVG")
    parser.add_argument("--png", metavar="FILE", help="also draw it, as PNG")


def run(args: argparse.Namespace) -> int:
    """Explain one VM, once or again and again."""
    target = _target.target(args)
    if args.watch and target.said is not None:
        raise InputError("--watch needs a guest that answers: a file does not change")
    ages = None
    if args.exact:
        # numpy takes 90 ms to import: only --exact pays for it.
        from giveback.accounting.page_ledger import Ages  # noqa: PLC0415

        ages = Ages()
    while True:
        _once(target, args, ages)
        if not args.watch:
            return 0
        time.sleep(args.watch)


def _once(target: _target.Target, args: argparse.Namespace, ages: Ages | None) -> None:
    exact = None
    if ages is None:
        seen = asyncio.run(target.observe())
    else:
        seen, said = asyncio.run(target.observe_pages())
    if seen.ledger is None:
        raise VmError("; ".join(shown(problem, 300) for problem in seen.problems))
    if ages is not None:
        from giveback.accounting import page_ledger as pages  # noqa: PLC0415

        exact = pages.join_pages(seen, said, ages, time.monotonic())
    if args.json:
        document = as_json(seen) | ({} if exact is None else {"exact": exact.as_json()})
        print(json.dumps(document, indent=None if args.watch else 1), flush=True)
    else:
        print(text(seen) + ("" if exact is None else "\n\n" + exact.text()), flush=True)
    if args.svg or args.png:
        from giveback.reporters.waterfall_figure import draw  # noqa: PLC0415

        for path in filter(None, (args.svg, args.png)):
            draw(seen, path)


def text(seen: Observation) -> str:
    """The waterfall in words and numbers."""
    ledger, host = seen.ledger, seen.host
    if ledger is None or host is None:
        return ""
    where = f"pid {seen.vm.pid}, {seen.vm.backend}"
    age = "" if not seen.guest.age_s else f", {seen.guest.age_s:.0f} s old"
    lines = [
        f"{shown(seen.vm.name, 60)} ({where}): RAM {size(ledger.ram_bytes)}",
        f"guest's side: {seen.guest.source}{age}",
        "",
        _line("the host charges", ledger.charged_bytes, ledger.charged_bytes, ""),
    ]
    lines += [_row(row, ledger.charged_bytes) for row in ledger.rows if row.key in _COST]
    if host.placed:
        resident = host.ram_resident_bytes
        lines.append(_line("= guest RAM, resident", resident, ledger.charged_bytes, ""))
    held = [r for r in ledger.rows if r.key in RESIDUE | {Key.GUEST_SILENT}]
    lines += [_row(row, ledger.charged_bytes) for row in held]
    if ledger.needed_bytes is not None:
        lines.append(_line("= needed", ledger.needed_bytes, ledger.charged_bytes, ""))
        needed = [r for r in ledger.rows if r.key in NEEDED]
        lines += [_row(row, ledger.charged_bytes) for row in needed]
    lines += ["", "of RAM, not resident:"]
    lines += [
        f"  {row.key:<56} {size(row.ram_bytes):>9}"
        for row in ledger.rows
        if row.ram_bytes and not row.host_bytes
    ]
    lines += _of_which(seen)
    lines += ["", "what would bring it back:", *_remedies(remedies(seen))]
    lines += [f"note: {shown(note, 300)}" for note in (*ledger.notes, *seen.vm.notes)]
    lines += [f"problem: {shown(problem, 300)}" for problem in seen.problems]
    return "\n".join(lines)


def _row(row: Row, whole: int) -> str:
    return _line(f"  {row.key}", row.host_bytes, whole, f"  {row.basis}")


def _line(label: str, value: int, whole: int, tail: str) -> str:
    blocks = round(_BAR * max(0, value) / whole) if whole > 0 else 0
    return f"{label:<58} {size(value):>9}  {'█' * min(_BAR, blocks):<{_BAR}}{tail}".rstrip()


def _of_which(seen: Observation) -> list[str]:
    """What is true of the resident RAM besides: these overlap the rows and are not in the sum."""
    host = seen.host
    if host is None or not host.placed:
        return []
    split = host.ram_resident_bytes - host.ram_huge_bytes
    shared = host.ram_resident_bytes - host.ram_pss_bytes
    facts = [
        (f"in huge pages {size(host.ram_huge_bytes)}, in small ones {size(split)}", True),
        (f"locked {size(host.ram_locked_bytes)}", bool(host.ram_locked_bytes)),
        (f"merged by KSM {size(host.ram_ksm_bytes)}", bool(host.ram_ksm_bytes)),
        (f"shared with other processes {size(shared)}", shared > 1 << 20),
    ]
    return ["of the resident RAM: " + "; ".join(words for words, there in facts if there)]


def _remedies(listed: tuple[Remedy, ...]) -> list[str]:
    if not listed:
        return ["  nothing that is known from here"]
    return [
        f"  {'up to ' if r.at_most else ''}{size(r.expected_bytes)}: {r.what}"
        + (f" (costs {r.cost})" if r.cost else "")
        for r in listed
    ]


def as_json(seen: Observation) -> dict[str, object]:
    """The ledger for `--json`; all amounts are bytes."""
    ledger, host = seen.ledger, seen.host
    if ledger is None or host is None:
        return {}
    return {
        "name": seen.vm.name,
        "pid": seen.vm.pid,
        "vmm": seen.vm.backend,
        "ram_bytes": ledger.ram_bytes,
        "charged_bytes": ledger.charged_bytes,
        "resident_bytes": host.ram_resident_bytes if host.placed else None,
        "needed_bytes": ledger.needed_bytes,
        "residue_bytes": ledger.residue_bytes,
        "rows": [
            {
                "row": row.key.name.lower(),
                "label": str(row.key),
                "ram_bytes": row.ram_bytes,
                "host_bytes": row.host_bytes,
                "basis": str(row.basis),
            }
            for row in ledger.rows
        ],
        "huge_bytes": host.ram_huge_bytes,
        "pss_bytes": host.ram_pss_bytes,
        "locked_bytes": host.ram_locked_bytes,
        "guest": {
            "source": str(seen.guest.source),
            "age_s": seen.guest.age_s,
            "free_by_order": list(seen.guest.free_by_order),
            "report_order": seen.guest.report_order,
        },
        "remedies": [
            {"what": r.what, "expected_bytes": r.expected_bytes, "at_most": r.at_most}
            for r in remedies(seen)
        ],
        "notes": list(ledger.notes),
        "problems": list(seen.problems),
    }
