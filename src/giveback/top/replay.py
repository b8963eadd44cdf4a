"""The past as `giveback top` replays it: moments of the history, and the snapshot at each. Pure."""

from __future__ import annotations

import bisect
import time
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from giveback.top.from_status import NAME_LIMIT, owner_of, parts_of, verdict_of
from giveback.top.model import TopHost, TopSnapshot, TopVm
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from giveback.manager.history.records import HistoryFrame, HistorySample, HistoryVm
    from giveback.manager.model import RecordedAction

_BACK_TO_LIVE = "t: back to live"


@dataclass(frozen=True, slots=True)
class Scrub:
    """Where the replay is: the times of all moments, oldest first, and the place among them."""

    moments: tuple[int, ...]
    at: int

    @staticmethod
    def over(moments: Iterable[int]) -> Scrub:
        """Return a replay of these wall seconds that begins at the newest; times are sorted, once each.

        A clock that was set back has written some of them out of order.
        """
        ordered = tuple(sorted(set(moments)))
        return Scrub(ordered, max(0, len(ordered) - 1))

    @property
    def wall_s(self) -> int | None:
        """Return the time that is shown; None if the history has no moment."""
        return self.moments[self.at] if self.moments else None

    def moved(self, steps: int) -> Scrub:
        """Return the replay some moments later, or earlier; it stays within."""
        return replace(self, at=max(0, min(len(self.moments) - 1, self.at + steps)))

    def moved_to(self, wall_s: float) -> Scrub:
        """Return the replay at the last moment that is not after `wall_s`."""
        return replace(self, at=max(0, bisect.bisect_right(self.moments, wall_s) - 1))


def scrubber(scrub: Scrub, width: int) -> str:
    """Return one line: the time shown, its place between the first and the last, and the keys."""
    if scrub.wall_s is None:
        return "replay: the history has nothing of this time"[:width]
    shown = time.strftime("%d %b %H:%M:%S", time.localtime(scrub.wall_s))
    start = f"replay {shown} "
    end = f" {scrub.at + 1}/{len(scrub.moments)}  ← →  {_BACK_TO_LIVE}"
    cells = width - len(start) - len(end)
    if cells < 5:
        return start[:width]
    place = round(scrub.at * (cells - 1) / max(1, len(scrub.moments) - 1))
    return start + "─" * place + "●" + "─" * (cells - 1 - place) + end


def snapshot_at(
    frame: HistoryFrame, owners: Mapping[int, str] = MappingProxyType({})
) -> TopSnapshot:
    """Return the snapshot of one moment; each VM has the last request that was made until then.

    `owners` names the users of VMMs.
    """
    names = {vm.key: vm for vm in frame.vms}
    last: dict[str, RecordedAction] = {}
    for action in sorted(frame.actions, key=lambda one: one.wall_s):
        if action.wall_s <= frame.at_s + frame.step_s:
            last[action.vm] = action
    vms = tuple(_vm(sample, names.get(sample.key), last, owners) for sample in frame.samples)
    host = None
    row = frame.host
    if row is not None and row.total_bytes:
        host = TopHost(
            total_bytes=row.total_bytes,
            available_bytes=row.available_bytes or 0,
            stall_some_percent=row.psi_some,
            stall_full_percent=row.psi_full,
            swap_free_bytes=row.swap_free_bytes,
            urgency=row.urgency,
            deficit_bytes=row.deficit_bytes or 0,
        )
    return TopSnapshot(float(frame.at_s), host, vms)


def _vm(
    sample: HistorySample,
    known: HistoryVm | None,
    last: dict[str, RecordedAction],
    owners: Mapping[int, str],
) -> TopVm:
    name = sample.key if known is None else known.name
    action = last.get(sample.key) or last.get(name)
    in_use = sample.in_use_bytes
    if in_use is None and sample.needed_bytes is not None and sample.cache_bytes is not None:
        # A row of an older daemon.
        in_use = sample.needed_bytes - sample.cache_bytes
    pid = sample.key.rpartition(":")[2]
    return TopVm(
        key=sample.key,
        name=escape_for_terminal(name, NAME_LIMIT),
        pid=int(pid) if pid.isdecimal() and pid.isascii() and len(pid) < 12 else 0,
        backend="" if known is None else escape_for_terminal(known.backend, 20),
        owner="" if known is None else owner_of(known.uid, owners, known.label),
        ram_bytes=sample.ram_bytes,
        resident_bytes=sample.resident_bytes,
        parts=parts_of(in_use, sample.cache_bytes, sample.residue_bytes, sample.returned_bytes),
        small_blocks_bytes=sample.trapped_bytes,
        returnable_bytes=sample.returnable_bytes,
        condition=escape_for_terminal(sample.condition or "", 40),
        urgency=sample.urgency,
        verdict="" if action is None else verdict_of(action),
        unknown="" if sample.residue_bytes is not None else "not recorded",
    )
