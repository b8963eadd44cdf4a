"""Kata Containers' mem-agent, its two cores apart, and both at a period that a cell can see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_lab.bench.strategies.running import guest_version, in_guests
from giveback_lab.bench.strategy import Strategy

if TYPE_CHECKING:
    from giveback_lab.bench.strategies.running import InGuests
    from giveback_lab.vms.vm import LabVm

SOURCE = "kata-containers 7c6ba40, src/libs/mem-agent/src/"


def _kata(name: str, program: str, title: str, file: str, *options: str) -> Strategy:
    async def set_up(running: InGuests, vm: LabVm) -> None:
        await running.run(vm, program, *options)

    version = guest_version("kata.py", "kata_compact.py", "kata_memcg.py", "kata_psi.py")
    return Strategy(
        name=name,
        title=title,
        source=SOURCE + file,
        start=in_guests(set_up),
        version=version,
    )


STRATEGIES = (
    _kata(
        "kata-compact",
        "kata-compact",
        "Kata mem-agent's compact core, every 600 s (re-implementation)",
        "compact.rs",
    ),
    _kata(
        "kata-memcg",
        "kata-memcg",
        "Kata mem-agent's memcg core, every 600 s (re-implementation)",
        "memcg.rs",
    ),
    _kata(
        "kata-eager",
        "kata-both",
        "Kata mem-agent's two cores, every 61 s instead of 600 (re-implementation)",
        "compact.rs, memcg.rs; the period is ours",
        # Just above the minute that the memcg core lets pass between two ageings.
        "period_secs=61",
    ),
)
