"""giveback itself, and giveback with one of its parts switched off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_lab.bench.strategies.running import in_guests, of_program
from giveback_lab.bench.strategy import Strategy

if TYPE_CHECKING:
    from giveback_lab.bench.strategies.running import InGuests
    from giveback_lab.vms.vm import LabVm

SOURCE = "docs/agent.md"
# A floor that no cache reaches, and an order that no kernel reports from.
NO_CACHE = "giveback.cacheFloor=1024G"
NO_DEEP_REPORT = "giveback.lowestReportOrder=15"
NO_COMPACTION = "giveback.idleThreshold=0"
# The closest to WSL's idleness detector that the settings allow.
SLOW_GATE = ("giveback.idleBusyPercent=1", "giveback.idleWindow=120")


async def _whole(running: InGuests, vm: LabVm) -> None:
    await running.run_agent(vm)


def _set(name: str, title: str, *overrides: str) -> Strategy:
    """Return a strategy by a setting that users have, too."""

    async def set_up(running: InGuests, vm: LabVm) -> None:
        await running.run_agent(vm, *overrides)

    title = f"giveback {title} ({' '.join(overrides)})"
    return Strategy(name=name, title=title, source=SOURCE, start=in_guests(set_up))


def _without(name: str, title: str, part: str) -> Strategy:
    """Return a strategy by the lab's wrapper around the policy, because users need no such setting."""
    words = ("giveback-without", part)
    return of_program(name, f"giveback {title}", SOURCE, ("giveback_without.py",), words)


GIVEBACK = Strategy(
    name="giveback", title="giveback, adaptive", source=SOURCE, start=in_guests(_whole)
)
PARTS = (
    _set("giveback-no-cache", "without cache and slab reclaim", NO_CACHE),
    _without("giveback-no-slab", "without slab reclaim", "slab"),
    _set("giveback-no-compaction", "without compaction", NO_COMPACTION),
    _set("giveback-no-deep-report", "without the deep report", NO_DEEP_REPORT),
    _without("giveback-no-nudge", "without the trigger of a reporting pass", "nudge"),
    _without("giveback-no-slack", "without reclaim in a busy guest", "slack"),
    _without("giveback-no-floor", "without the floor that learns", "floor"),
    _set("giveback-slow-gate", "with an idleness detector like WSL's", *SLOW_GATE),
)
