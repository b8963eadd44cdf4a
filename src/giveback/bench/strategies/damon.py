"""DAMON_RECLAIM, the kernel's own proactive reclaim, with its defaults and with AgentENV's constants.

No re-implementation: the kernel's code runs, set through its module parameters. Source:
Documentation/admin-guide/mm/damon/reclaim.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.bench.strategies.running import in_guests
from giveback.bench.strategy import CannotRun, Strategy

if TYPE_CHECKING:
    from giveback.bench.strategies.running import InGuests
    from giveback.lab.vm import LabVm

PARAMETERS = "/sys/module/damon_reclaim/parameters"
IOMEM_PATH = "/proc/iomem"
PAGE_BYTES = 4096
WITHOUT_DAMON = {"6.1": "Debian's kernel 6.1 is built without DAMON"}
AGENTENV = {
    "min_age": "100000",
    "quota_ms": "20",
    "quota_sz": str(1 << 30),
    "quota_reset_interval_ms": "500",
    "wmarks_high": "990",
    "wmarks_mid": "990",
    "wmarks_low": "200",
    "skip_anon": "Y",
    "wmarks_interval": "1000000",
}


def end_of_ram(iomem: str) -> int | None:
    """The address behind the last System RAM in /proc/iomem; None where it shows none (not root)."""
    ends = []
    for line in iomem.splitlines():
        place, _, name = line.partition(" : ")
        if name.strip() == "System RAM" and not line.startswith(" "):
            try:
                ends.append(int(place.partition("-")[2], 16) + 1)
            except ValueError:
                continue
    return max((end for end in ends if end > 1), default=None)


def _without_damon(kernel: str) -> str | None:
    return WITHOUT_DAMON.get(kernel)


async def _enable(running: InGuests, vm: LabVm, values: dict[str, str]) -> None:
    values = {**values, "enabled": "Y"}
    await running.change(vm, {f"{PARAMETERS}/{name}": value for name, value in values.items()})
    await running.note_pid_in(vm, f"{PARAMETERS}/kdamond_pid")


async def _defaults(running: InGuests, vm: LabVm) -> None:
    await _enable(running, vm, {})


async def _agentenv(running: InGuests, vm: LabVm) -> None:
    end = end_of_ram(await running.read(vm, IOMEM_PATH))
    if end is None:
        raise CannotRun(f"{vm.spec.name}: {IOMEM_PATH} shows no System RAM")
    # By default the kernel watches the largest piece of RAM alone: AgentENV watches all.
    region = {"monitor_region_start": str(PAGE_BYTES), "monitor_region_end": str(end)}
    await _enable(running, vm, {**AGENTENV, **region})


STRATEGIES = (
    Strategy(
        name="damon-reclaim",
        title="DAMON_RECLAIM with the kernel's defaults",
        source="mm/damon/reclaim.c: cold for 120 s, 128 MiB and 10 ms a second, below 50 % free",
        start=in_guests(_defaults),
        unsupported=_without_damon,
    ),
    Strategy(
        name="damon-agentenv",
        title="DAMON_RECLAIM with AgentENV's constants",
        source="kvcache-ai/AgentENV pull request 287: cold for 0.1 s, 20 ms each 500 ms, files only",
        start=in_guests(_agentenv),
        unsupported=_without_damon,
    ),
)
