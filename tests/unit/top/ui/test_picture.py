"""The picture in README and docs/top.md: made here, so that it shows what the command shows.

`GIVEBACK_DRAW=1 .venv/bin/python -m pytest -n 0 tests/unit/top/ui/test_picture.py` makes it again.
"""

from __future__ import annotations

import asyncio
import html
import math
import os
import re
from pathlib import Path

import pytest
from top_samples import GIB, ScriptedSource, snapshot, top_vm, until

from giveback.errors import InputError
from giveback.top.model import TopHost, TopSnapshot, TopVm, VmParts
from giveback.top.order import TopView
from giveback.top.series import POINTS
from giveback.top.sources.history import FilePast, HistoryReplay
from giveback.top.ui.app import TopApp

PICTURE = Path(__file__).parents[4] / "docs/images/top.svg"
# Name, owner, RAM in GiB; needed, cache, trapped and returned in per cent of it; stalls, condition, verdict.
VMS = (
    ("ci-runner-3", "ci", 16, (22, 9, 31, 12), 0.0, "ok", "asked 4.0 GiB, waits for it"),
    ("ci-runner-1", "ci", 16, (18, 24, 14, 30), 0.0, "ok", "asked 2.0 GiB, got 1.9 in 11 s"),
    ("postgres-main", "dba", 32, (41, 38, 2, 11), 0.4, "ok", "asked 512 MiB, got 498 in 9 s"),
    ("win-legacy", "desktop", 8, None, None, "no agent", ""),
    ("build-arm", "ci", 8, (12, 6, 22, 40), 0.0, "ok", "asked 1.5 GiB, got 1.5 in 8 s"),
    ("web-1", "www", 4, (34, 21, 3, 28), 0.0, "ok", "asked 256 MiB, got 256 in 4 s"),
    ("web-2", "www", 4, (31, 24, 2, 30), 0.0, "ok", ""),
    ("elastic", "search", 24, (70, 21, 1, 3), 7.8, "does not deliver", "asked 1.0 GiB, got 40 MiB in 30 s"),
    ("dev-anna", "anna", 8, (25, 14, 6, 41), 0.0, "ok", "asked 512 MiB, got 512 in 6 s"),
    ("dev-ben", "ben", 8, (17, 10, 4, 22), 0.0, "ok", ""),
    ("mail", "root", 2, (44, 30, 3, 12), 0.0, "paused", ""),
    ("staging", "dba", 4, (29, 33, 5, 20), 1.2, "ok", "asked 300 MiB, got 290 in 12 s"),
)  # fmt: skip


def _vm(at: int, trend: float = 1.0) -> TopVm:
    name, owner, ram_gib, parts, stall, condition, verdict = VMS[at]
    ram = ram_gib * GIB
    made = None if parts is None else VmParts(*(ram * part // 100 for part in parts))
    held = (
        ram * 85 // 100
        if made is None
        else made.needed_bytes + made.cache_bytes + made.trapped_bytes
    )
    return top_vm(
        name, 4000 + 17 * at, owner=owner, ram_bytes=ram, resident_bytes=int(held * trend),
        parts=made, stall_percent=stall, condition=condition, verdict=verdict, urgency=2,
        condition_text="compacts memory" if at == 0 else "",
        small_blocks_bytes=None if made is None else made.trapped_bytes * 6 // 10,
        returnable_bytes=None if made is None else made.trapped_bytes + made.cache_bytes // 2,
        unknown="the guest sends no numbers" if made is None else "",
    )  # fmt: skip


def _trend(at: int, step: int) -> float:
    return 0.55 + 0.5 * abs(math.sin(step / (4 + at % 5) + at))


class Past(HistoryReplay):
    """A past in which each VM grew and gave back in a way of its own."""

    def recent(self, last_s: int) -> list[TopSnapshot]:
        return [
            snapshot(*(_vm(at, _trend(at, step)) for at in range(len(VMS))))
            for step in range(last_s // 10)
        ]


def _no_history() -> HistoryReplay:
    raise InputError("none")


def drawn(size: tuple[int, int] = (132, 24)) -> str:
    """Return the screen as SVG."""
    host = TopHost(
        128 * GIB, 14 * GIB, 3.1, 0.4, 8 * GIB, 2, 6 * GIB, 140.0, "available memory falls"
    )
    source = ScriptedSource(snapshot(*(_vm(at) for at in range(len(VMS))), host=host))
    source.label = "daemon /run/giveback-daemon/api.sock"
    app = TopApp(source, TopView(), lambda: Past(FilePast(""), 0.0))

    async def live() -> str:
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.shown is not None)
            key = source.now.vms[0].key
            await until(pilot, lambda: len(app._series.of(key)) == POINTS)
            await pilot.pause()
            return app.export_screenshot()

    return asyncio.run(live())


def _words(svg: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r">([^<>]+)</text>", svg)]


def test_the_picture_shows_what_the_command_shows() -> None:
    """A new release of Textual may draw it otherwise: its words are compared."""
    svg = drawn()
    if os.environ.get("GIVEBACK_DRAW"):
        PICTURE.write_text(svg, encoding="utf-8")
    assert _words(PICTURE.read_text(encoding="utf-8")) == _words(svg)


@pytest.mark.parametrize("name", [vm[0] for vm in VMS])
def test_the_picture_has_every_vm(name: str) -> None:
    assert name in "".join(_words(PICTURE.read_text(encoding="utf-8"))).replace("\xa0", " ")
