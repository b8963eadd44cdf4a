"""Diagnose why a VM's memory does not come back, and list what would bring it back. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from giveback.accounting.cgroups import cold_parts, ended_bytes, ended_parts, programs
from giveback.accounting.ledger import Key
from giveback.accounting.next_steps import (
    find_holder,
    install_agent,
    start_options,
    turn_reporting_on,
    turn_statistics_on,
)
from giveback.accounting.reporting import Reporting, reporting_of
from giveback.accounting.returnable import returnable_of
from giveback.accounting.usage import STALE_S, GuestSnapshot, GuestSource
from giveback.vmm.base import MONITOR_SILENT, Answer, Backing
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.accounting.ledger import Ledger
    from giveback.accounting.observation import Observation
    from giveback.host.facts import HostFacts

_QEMU_REPORTING = "start it with -device virtio-balloon-pci,free-page-reporting=on"
PROGRAM_DIVISOR = 16
"""Stopping a program is not proposed if it holds less than RAM divided by this."""
_NEEDS = "the guest needs Linux 5.7 or later with PAGE_REPORTING, and virtio_balloon"
_REMEDY_REPORTING = {
    "qemu": _QEMU_REPORTING,
    "libvirt": "set <memballoon model='virtio' freePageReporting='on'/> in its XML and restart it",
    "cloud-hypervisor": "start it with --balloon size=0,free_page_reporting=on",
    "firecracker": 'before boot, PUT /balloon with "free_page_reporting": true',
}


class Severity(StrEnum):
    """Effect of a finding; the values are shown. Listed from the worst."""

    KEEPS = "keeps memory"
    MAY_KEEP = "may keep memory"
    BLINDS = "cannot see inside"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why memory does not come back: what is wrong, how one sees it, what to do, where to read."""

    severity: Severity
    what: str
    evidence: str
    remedy: str
    commands: tuple[str, ...] = ()
    """Command lines or options to paste."""
    read_more: str = "docs/hypervisors.md"
    """A page of the documentation."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A step that brings memory back.

    `expected_bytes` is None if unknown, and an upper bound if `at_most`. `commands` are lines to paste.
    `parts` are the largest services and containers of the guest in it, each with its bytes.
    """

    what: str
    expected_bytes: int | None
    at_most: bool = False
    cost: str = ""
    commands: tuple[str, ...] = ()
    parts: tuple[tuple[str, int], ...] = ()


def findings(seen: Observation, facts: HostFacts) -> tuple[Finding, ...]:
    """Return every reason why this VM's memory does not come back, the most severe first."""
    found = [
        *_agent(seen),
        *_device(seen),
        *_negotiation(seen),
        *_blockers(seen),
        *_backing(seen, facts),
        *_host_settings(seen, facts),
        *_sight(seen),
    ]
    order = list(Severity)
    return tuple(sorted(found, key=lambda f: order.index(f.severity)))


def _device(seen: Observation) -> Iterator[Finding]:
    reporting = reporting_of(seen.vm, seen.state, seen.guest)
    remedy = _REMEDY_REPORTING.get(seen.vm.backend, _QEMU_REPORTING)
    if reporting is Reporting.NO_DEVICE:
        yield Finding(
            Severity.KEEPS,
            "the VM has no balloon device: its guest cannot report free pages",
            f"{seen.vm.backend} has none configured",
            remedy,
            turn_reporting_on(seen.vm),
        )
    elif reporting is Reporting.OFF:
        yield Finding(
            Severity.KEEPS,
            "free page reporting is off in the VMM",
            "the balloon device is configured without free page reporting",
            remedy,
            turn_reporting_on(seen.vm),
        )


def _negotiation(seen: Observation) -> Iterator[Finding]:
    state = seen.state
    offered = seen.vm.capabilities.reports_pages is Answer.YES
    refused = reporting_of(seen.vm, state, seen.guest) is Reporting.NOT_TAKEN
    if offered and refused and state.reporting_negotiated is Answer.NO:
        if state.driver_features:
            yield Finding(
                Severity.KEEPS,
                "the guest's balloon driver did not accept free page reporting",
                f"it accepted: {', '.join(sorted(state.driver_features))}",
                # virtballoon_validate() in Linux's drivers/virtio/virtio_balloon.c
                f"{_NEEDS}; boot it without page_poison=1 and init_on_free=1 if the VMM does not offer "
                "page poison, for the driver then declines reporting",
            )
        else:
            yield Finding(
                Severity.KEEPS,
                "the guest has no active balloon driver",
                "the driver has not negotiated any feature of the device",
                "wait if the guest is still booting; else load virtio_balloon in it",
            )
    elif offered and refused:
        yield Finding(
            Severity.KEEPS,
            "the guest's kernel reports no free pages",
            f"stated by the {seen.guest.source}",
            _NEEDS,
        )
    if "PAGE_POISON" in state.driver_features:
        yield Finding(
            Severity.MAY_KEEP,
            "the guest poisons free pages: QEMU discards reported pages only if the poison is zero",
            "VIRTIO_BALLOON_F_PAGE_POISON is negotiated",
            "boot the guest without page_poison=1 (init_on_free=1 is harmless)",
        )


def _blockers(seen: Observation) -> Iterator[Finding]:
    for blocker in (*seen.vm.blockers, *seen.state.blockers):
        yield Finding(
            Severity.KEEPS,
            "the VMM accepts reported pages but does not discard them",
            blocker,
            "start the VM without it; or take memory by the balloon or virtio-mem, if the device allows it",
            read_more="docs/fallbacks.md",
        )


def _backing(seen: Observation, facts: HostFacts) -> Iterator[Finding]:
    if seen.host is not None and seen.host.ram_locked_bytes:
        yield Finding(
            Severity.KEEPS,
            "guest RAM is locked in memory",
            f"smaps of the VMM has {size(seen.host.ram_locked_bytes)} Locked",
            "start the VM without memory locking (libvirt: <locked/>)",
        )
    # The command line does not tell that a file is on hugetlbfs; its mapping does.
    measured = seen.host.ram_page_bytes if seen.host else 0
    page_bytes = max([measured, *(block.page_bytes for block in seen.vm.ram_blocks)])
    if page_bytes > facts.huge_page_bytes:
        yield Finding(
            Severity.KEEPS,
            f"guest RAM is made of {size(page_bytes)} pages, larger than any block that the guest "
            "reports",
            f"its mapping has hugetlb pages of {size(page_bytes)}",
            "back guest RAM with 2 MiB huge pages, or with transparent huge pages",
        )
    for block in seen.vm.ram_blocks:
        if block.prealloc:
            yield Finding(
                Severity.MAY_KEEP,
                f"RAM block {escape_for_terminal(block.name)} is preallocated: "
                "all of it is resident from the start",
                "prealloc=on on the command line",
                "start the VM without prealloc",
            )
        if block.backing is Backing.FILE and not block.shared:
            yield Finding(
                Severity.MAY_KEEP,
                f"RAM block {escape_for_terminal(block.name)} is a private mapping of a file: discarding its "
                "copies leaves the file's own pages in memory",
                f"{escape_for_terminal(block.path)}, share=off",
                "start the VM with share=on, or with a memfd",
            )


def _host_settings(seen: Observation, facts: HostFacts) -> Iterator[Finding]:
    shared = any(b.shared or b.backing is Backing.MEMFD for b in seen.vm.ram_blocks)
    # VMMs request huge pages by madvise, so that the setting alone does not tell.
    eligible = seen.host.ram_thp_eligible if seen.host else None
    setting = facts.shmem_thp if shared else facts.thp_enabled
    name = "shmem_enabled" if shared else "enabled"
    evidence = f"transparent_hugepage/{name} is {setting}" if eligible is None else "THPeligible: 1"
    refills = facts.khugepaged_max_ptes_none
    if refills and (setting in ("always", "force") if eligible is None else eligible):
        yield Finding(
            Severity.MAY_KEEP,
            "khugepaged may make memory resident again that the guest returned in blocks below 2 MiB",
            f"{evidence}, khugepaged/max_ptes_none is {refills}",
            "echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none",
        )
    if facts.swap_accounted is False:
        yield Finding(
            Severity.BLINDS,
            "swap is not accounted to the VM's cgroup: its part of the host's swap is not known",
            "the cgroup has no memory.swap.current",
            "boot the host without swapaccount=0",
        )


def _agent(seen: Observation) -> Iterator[Finding]:
    """Find a missing agent: without it, cold cache and small free blocks stay whatever the VMM offers."""
    if not lacks_agent(seen):
        return
    problems = "; ".join(escape_for_terminal(problem, 300) for problem in seen.guest.problems)
    held = "" if seen.host is None else f"{size(seen.host.resident_bytes)} are resident on the host"
    yield Finding(
        Severity.KEEPS,
        "no giveback-agent in this guest: nothing there returns cold cache and small free blocks",
        "; ".join(filter(None, (problems or _no_channel(seen), held))),
        "install it",
        install_agent(seen.vm),
        "docs/agent.md",
    )


def _no_channel(seen: Observation) -> str:
    has = seen.vm.capabilities.agent_channel is Answer.YES
    return "no answer on its channel" if has else "the VM has no channel for one"


def lacks_agent(seen: Observation) -> bool:
    """Tell whether a running guest has no agent: none answers, and no other program holds its port."""
    answers = seen.guest.source in (GuestSource.AGENT, GuestSource.FILE)
    held = any("another program is connected" in problem for problem in seen.guest.problems)
    return (
        not answers
        and not held
        and not seen.guest.agent_is_there
        and seen.state.running is not False
    )


def _sight(seen: Observation) -> Iterator[Finding]:
    yield from _numbers(seen)
    if seen.guest.source is GuestSource.NONE and not seen.guest.agent_is_there:
        yield Finding(
            Severity.BLINDS,
            "the guest's use of its memory is not known",
            "; ".join(escape_for_terminal(p) for p in seen.guest.problems)
            or "no agent, no balloon statistics",
            "install giveback-agent, as above; if it runs there, give it a port org.giveback.agent.0"
            if lacks_agent(seen)
            else "run giveback-agent in the guest, with a virtio-serial port org.giveback.agent.0",
            read_more="docs/agent.md",
        )
    if seen.vm.unread:
        yield Finding(
            Severity.BLINDS,
            "a part of the VM's configuration cannot be read",
            escape_for_terminal("; ".join(seen.vm.unread), 300),
            "run giveback as root; or give the VM a control socket that answers",
            start_options(seen.vm) if not seen.vm.control else (),
        )
    for problem in seen.problems:
        if MONITOR_SILENT in problem and problem not in seen.vm.unread:
            yield Finding(
                Severity.BLINDS,
                "QEMU's monitor does not answer: another program is connected to it, or QEMU does not run",
                escape_for_terminal(problem, 300),
                "see which of the two it is, and end that; or give giveback a monitor of its own",
                find_holder(seen.vm),
                "docs/hypervisors.md",
            )
        elif problem not in seen.vm.unread:
            without = seen.vm.backend == "qemu" and not seen.vm.control
            yield Finding(
                Severity.BLINDS,
                "a source of numbers about the VM could not be read",
                escape_for_terminal(problem, 300),
                "start the VM with a control socket next time"
                if without
                else "remove the cause that the evidence names, and run giveback again",
                start_options(seen.vm)[-1:] if without else (),
            )


def _numbers(seen: Observation) -> Iterator[Finding]:
    """Find why the guest's own numbers are old or missing: the one most direct reason."""
    statistics = seen.state.statistics
    age_s = seen.guest.age_s
    from_agent = seen.guest.source in (GuestSource.AGENT, GuestSource.FILE)
    if seen.guest.agent_is_there:
        yield Finding(
            Severity.BLINDS,
            "the guest's agent gives no numbers now: the guest is busy, or its answers used a tenth of a CPU",
            "; ".join(escape_for_terminal(problem, 300) for problem in seen.guest.problems),
            "run giveback again, at that time if one is named; giveback daemon keeps the agent's last answer",
            read_more="docs/protocol.md",
        )
    elif seen.state.running is False:
        yield Finding(
            Severity.BLINDS,
            "the VM is paused: its guest does not answer, and its numbers are old",
            "the VMM says that it is not running",
            "resume the VM",
        )
    elif statistics is not None and seen.state.statistics_period_s == 0 and not from_agent:
        last = "the guest has never answered"
        if age_s is not None:
            last = f"the last answer is {span(age_s)} old"
        yield Finding(
            Severity.BLINDS,
            "statistics polling is off: the VMM does not ask the guest for its numbers",
            f"the polling interval is 0; {last}",
            "turn polling on; this needs no restart",
            turn_statistics_on(seen.vm),
        )
    elif age_s is not None and age_s > STALE_S:
        yield Finding(
            Severity.BLINDS,
            "the guest's numbers are stale: it is stuck, stopped, or no longer answers",
            f"the numbers of the source '{seen.guest.source}' are {span(age_s)} old",
            "log in to the guest and see whether it runs; a paused VM sends no numbers",
        )
    elif (
        statistics is not None
        and statistics.updated_s == 0
        and seen.guest.source is GuestSource.NONE
    ):
        yield Finding(
            Severity.BLINDS,
            "the guest has never sent balloon statistics",
            "last-update is 0",
            "wait if the guest is still booting; else load virtio_balloon in it",
            () if seen.state.statistics_period_s else turn_statistics_on(seen.vm),
        )


def remedies(seen: Observation) -> tuple[Remedy, ...]:
    """Return the steps that bring memory back with their expected bytes, the largest first.

    If no agent answers, its installation comes first.
    """
    first = (_installing(seen),) if lacks_agent(seen) else ()
    if seen.ledger is None or seen.ledger.residue_bytes is None:
        return first
    return first + _known_remedies(seen, seen.ledger)


def _installing(seen: Observation) -> Remedy:
    ledger = seen.ledger
    within = None
    can_come = returnable_of(seen)
    if ledger is not None and can_come is not None:
        free = ledger.host(Key.FREE_TRAPPED, Key.FREE_UNSPLIT)
        within = free + can_come.cold_bytes + can_come.warm_bytes
    what = "no giveback-agent in this guest: install it"
    return Remedy(what, within, at_most=True, commands=install_agent(seen.vm))


def _left_behind(guest: GuestSnapshot, ledger: Ledger, cold_bytes: int) -> Remedy:
    """Return the remedy for the cache of ended cgroups, which the agent does not count as cold."""
    return Remedy(
        "reclaim page cache that ended services and containers left behind (giveback-agent does it by "
        "itself, unless its mode is disabled)",
        min(ended_bytes(guest.cgroups), max(0, ledger.host(Key.CACHE_CLEAN) - cold_bytes)),
        at_most=True,
        parts=ended_parts(guest.cgroups),
    )


def _known_remedies(seen: Observation, ledger: Ledger) -> tuple[Remedy, ...]:
    guest, can_come = seen.guest, returnable_of(seen)
    found = [
        Remedy(
            _to_turn_on(seen),
            min(ledger.host(Key.FREE_UNREPORTED), _or_all(guest.reportable_bytes)),
            cost="a restart",
        ),
        Remedy(
            f"start it without: {escape_for_terminal('; '.join(seen.vm.blockers), 300)}",
            min(ledger.host(Key.FREE_KEPT), _or_all(guest.reportable_bytes)),
            cost="a restart of the VM",
        ),
        Remedy(
            "wait: a reporting pass of the guest's kernel takes about 30 s",
            ledger.host(Key.FREE_WAITING),
        ),
        Remedy(
            "a deep report while the guest is idle (giveback-agent lowers page_reporting_order), "
            "or compaction",
            ledger.host(Key.FREE_TRAPPED),
            at_most=True,
            cost="idle CPU in the guest",
        ),
        Remedy(
            "install giveback-agent, which sends the free lists: these free blocks are of unknown size",
            ledger.host(Key.FREE_UNSPLIT),
            at_most=True,
        ),
        Remedy(
            "reclaim the guest's cold page cache (giveback reclaim)",
            0 if can_come is None else can_come.cold_bytes,
            at_most=True,
            cost="cache that is needed again must be read from disk",
            parts=cold_parts(guest.cgroups),
        ),
        _left_behind(guest, ledger, 0 if can_come is None else can_come.cold_bytes),
        *_ends(seen, ledger),
        Remedy(
            "shrink the guest's reclaimable slab",
            ledger.host(Key.SLAB_RECLAIMABLE),
            at_most=True,
            cost="file names must be looked up on disk again",
        ),
    ]
    amounts = [(remedy, remedy.expected_bytes or 0) for remedy in found]
    listed = sorted(amounts, key=lambda pair: -pair[1])
    return tuple(remedy for remedy, expected_bytes in listed if expected_bytes > 0)


def _ends(seen: Observation, ledger: Ledger) -> Iterator[Remedy]:
    """Yield the remedies of stopping or restarting a large program of the guest."""
    for name, held_bytes in programs(seen.guest.cgroups, ledger.ram_bytes // PROGRAM_DIVISOR):
        anon_bytes = ledger.host(Key.ANON) + ledger.host(Key.SHMEM)
        yield Remedy(
            f"stop or restart {name} in the guest",
            min(held_bytes, anon_bytes),
            at_most=True,
            cost="its service is interrupted",
        )


def _to_turn_on(seen: Observation) -> str:
    """Return how to have the guest's free memory reported."""
    if seen.vm.capabilities.reports_pages is Answer.YES:
        return f"have the guest accept the reporting that the VMM offers: {_NEEDS}"
    return _REMEDY_REPORTING.get(seen.vm.backend, _QEMU_REPORTING)


def _or_all(amount: int | None) -> int:
    return 1 << 62 if amount is None else amount
