"""Senpai on the guest's root cgroup, by both of its published laws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_lab.bench.strategies.running import guest_version, in_guests
from giveback_lab.bench.strategy import Strategy

if TYPE_CHECKING:
    from giveback_lab.bench.strategies.running import InGuests
    from giveback_lab.vms.vm import LabVm


def _senpai(name: str, title: str, source: str) -> Strategy:
    async def set_up(running: InGuests, vm: LabVm) -> None:
        await running.run(vm, name)

    return Strategy(
        name=name,
        title=title,
        source=source,
        start=in_guests(set_up),
        version=guest_version("senpai.py"),
    )


STRATEGIES = (
    _senpai(
        "senpai",
        "Senpai as in TMO's paper, on the root cgroup (re-implementation)",
        "Weiner et al., TMO: Transparent Memory Offloading in Datacenters, ASPLOS 2022",
    ),
    _senpai(
        "senpai-oomd",
        "Senpai as in oomd's code, on the root cgroup (re-implementation)",
        "facebookincubator/oomd 88c28fd, src/oomd/plugins/Senpai.cpp, immediate_backoff",
    ),
)
