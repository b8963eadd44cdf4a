"""DAMON_RECLAIM, the kernel's own proactive reclaim, with its defaults and with AgentENV's constants.

This is not a re-implementation: the kernel's DAMON runs the scheme that its DAMON_RECLAIM module
makes. It is set up through sysfs and not through the module, because the module's thread tries no
region in Debian's 6.12.95 (docs/strategies.md). Sources: mm/damon/reclaim.c;
Documentation/admin-guide/mm/damon/usage.rst.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback_lab.bench.strategies.running import in_guests
from giveback_lab.bench.strategy import CannotRun, Strategy

if TYPE_CHECKING:
    from giveback_lab.bench.strategies.running import InGuests
    from giveback_lab.vms.vm import LabVm

KDAMONDS = "/sys/kernel/mm/damon/admin/kdamonds"
KDAMOND = f"{KDAMONDS}/0"
CONTEXT = f"{KDAMOND}/contexts/0"
SCHEME = f"{CONTEXT}/schemes/0"
IOMEM_PATH = "/proc/iomem"
PAGE_BYTES = 4096
TRIES = 10
AGAIN_S = 0.5
# DAMON_RECLAIM's monitoring, which neither its defaults nor AgentENV change.
SAMPLE_US = 5_000
AGGREGATION_US = 100_000
WITHOUT_DAMON = {"6.1": "Debian's kernel 6.1 is built without DAMON"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DamonReclaim:
    """DAMON_RECLAIM's parameters under their own names, with its defaults."""

    min_age_us: int = 120_000_000
    quota_ms: int = 10
    quota_sz: int = 128 << 20
    quota_reset_interval_ms: int = 1000
    wmarks_interval_us: int = 5_000_000
    wmarks_high: int = 500
    wmarks_mid: int = 400
    wmarks_low: int = 200
    skip_anon: bool = False


AGENTENV = DamonReclaim(
    min_age_us=100_000, quota_ms=20, quota_sz=1 << 30, quota_reset_interval_ms=500,
    wmarks_interval_us=1_000_000, wmarks_high=990, wmarks_mid=990, skip_anon=True,
)  # fmt: skip


def ram_pieces(iomem: str) -> list[tuple[int, int]]:
    """Return begin and end of each System RAM of /proc/iomem; empty if it shows no addresses (not root)."""
    pieces = []
    for line in iomem.splitlines():
        place, _, name = line.partition(" : ")
        if name.strip() == "System RAM" and not line.startswith(" "):
            begin, _, last = place.partition("-")
            try:
                pieces.append((int(begin, 16), int(last, 16) + 1))
            except ValueError:
                continue
    return [(begin, end) for begin, end in pieces if end > begin + 1]


def files_of(rule: DamonReclaim, begin: int, end: int) -> dict[str, str]:
    """Return the sysfs files of this scheme, for memory from `begin` to `end`, in the order of writing.

    Afterwards it only has to be switched on.
    """
    values: dict[str, object] = {
        f"{KDAMONDS}/nr_kdamonds": 1,
        f"{KDAMOND}/contexts/nr_contexts": 1,
        f"{CONTEXT}/operations": "paddr",
        f"{CONTEXT}/monitoring_attrs/intervals/sample_us": SAMPLE_US,
        f"{CONTEXT}/monitoring_attrs/intervals/aggr_us": AGGREGATION_US,
        f"{CONTEXT}/targets/nr_targets": 1,
        f"{CONTEXT}/targets/0/regions/nr_regions": 1,
        f"{CONTEXT}/targets/0/regions/0/start": begin,
        f"{CONTEXT}/targets/0/regions/0/end": end,
        f"{CONTEXT}/schemes/nr_schemes": 1,
        f"{SCHEME}/action": "pageout",
        f"{SCHEME}/access_pattern/sz/min": PAGE_BYTES,
        f"{SCHEME}/access_pattern/sz/max": (1 << 64) - 1,
        f"{SCHEME}/access_pattern/nr_accesses/max": 0,
        f"{SCHEME}/access_pattern/age/min": rule.min_age_us // AGGREGATION_US,
        f"{SCHEME}/access_pattern/age/max": (1 << 32) - 1,
        f"{SCHEME}/quotas/ms": rule.quota_ms,
        f"{SCHEME}/quotas/bytes": rule.quota_sz,
        f"{SCHEME}/quotas/reset_interval_ms": rule.quota_reset_interval_ms,
        # By age alone, the oldest first: the module's weights are 0, 0 and 1.
        f"{SCHEME}/quotas/weights/age_permil": 1,
        f"{SCHEME}/watermarks/metric": "free_mem_rate",
        f"{SCHEME}/watermarks/interval_us": rule.wmarks_interval_us,
        f"{SCHEME}/watermarks/high": rule.wmarks_high,
        f"{SCHEME}/watermarks/mid": rule.wmarks_mid,
        f"{SCHEME}/watermarks/low": rule.wmarks_low,
    }
    if rule.skip_anon:
        values[f"{SCHEME}/filters/nr_filters"] = 1
        values[f"{SCHEME}/filters/0/type"] = "anon"
        values[f"{SCHEME}/filters/0/matching"] = "Y"
    return {path: str(value) for path, value in values.items()}


def _without_damon(kernel: str) -> str | None:
    return WITHOUT_DAMON.get(kernel)


async def _pieces(running: InGuests, vm: LabVm) -> list[tuple[int, int]]:
    pieces = ram_pieces(await running.read(vm, IOMEM_PATH))
    if not pieces:
        raise CannotRun(f"{vm.spec.name}: {IOMEM_PATH} shows no System RAM")
    return pieces


async def _enable(running: InGuests, vm: LabVm, rule: DamonReclaim, begin: int, end: int) -> None:
    await running.change(vm, files_of(rule, begin, end))
    for tries_left in reversed(range(TRIES)):
        try:
            await running.change(vm, {f"{KDAMOND}/state": "on"})
            break
        except CannotRun as error:
            # DAMON's files share one lock, taken with trylock: any concurrent access makes a write
            # fail with EBUSY.
            if "busy" not in str(error) or not tries_left:
                raise
            await asyncio.sleep(AGAIN_S)
    await running.note_pid_in(vm, f"{KDAMOND}/pid")


async def _defaults(running: InGuests, vm: LabVm) -> None:
    # As the kernel does if no region is given: use only the largest piece of RAM.
    begin, end = max(await _pieces(running, vm), key=lambda piece: piece[1] - piece[0])
    await _enable(running, vm, DamonReclaim(), begin, end)


async def _agentenv(running: InGuests, vm: LabVm) -> None:
    end = max(end for _, end in await _pieces(running, vm))
    await _enable(running, vm, AGENTENV, PAGE_BYTES, end)


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
