"""Why memory does not come back, and what would bring it back. Pure: from an observation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from giveback.accounting.cgroups import cold_parts, ended_bytes, ended_parts, programs
from giveback.accounting.ledger import Key
from giveback.accounting.next_steps import (
    install_agent,
    start_options,
    turn_reporting_on,
    turn_statistics_on,
)
from giveback.accounting.reporting import Reporting, reporting_of
from giveback.accounting.returnable import returnable_of
from giveback.accounting.usage import STALE_S, GuestSnapshot, GuestSource
from giveback.vmm.base import Answer, Backing
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.accounting.ledger import Ledger
    from giveback.accounting.observation import Observation
    from giveback.host.facts import HostFacts

_QEMU_REPORTING = "start it with -device virtio-balloon-pci,free-page-reporting=on"
PROGRAM_DIVISOR = 16
"""A program that holds a smaller part of RAM is not proposed to be stopped."""
_NEEDS = "the guest needs Linux 5.7 or later with PAGE_REPORTING, and virtio_balloon"
_REMEDY_REPORTING = {
    "qemu": _QEMU_REPORTING,
    "libvirt": "set <memballoon model='virtio' freePageReporting='on'/> in its XML and restart it",
    "cloud-hypervisor": "start it with --balloon size=0,free_page_reporting=on",
    "firecracker": 'before boot, PUT /balloon with "free_page_reporting": true',
}


class Severity(StrEnum):
    """How much a finding keeps."""

    KEEPS = "keeps memory"
    MAY_KEEP = "may keep memory"
    BLINDS = "cannot see inside"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason, with its evidence and its remedy; `commands` are lines to paste."""

    severity: Severity
    what: str
    evidence: str
    remedy: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something that brings memory back. `expected_bytes` is an upper bound where `at_most`.

    It is None where nothing tells how much; `commands` are lines to paste. `parts` say of whom in the
    guest how many bytes of it are.
    """

    what: str
    expected_bytes: int | None
    at_most: bool = False
    cost: str = ""
    commands: tuple[str, ...] = ()
    parts: tuple[tuple[str, int], ...] = ()


def findings(seen: Observation, facts: HostFacts) -> tuple[Finding, ...]:
    """Every reason why this VM's memory does not come back, the surest first."""
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
            "no balloon device, so that nothing can report free pages",
            f"{seen.vm.backend} has none configured",
            remedy,
            turn_reporting_on(seen.vm),
        )
    elif reporting is Reporting.OFF:
        yield Finding(
            Severity.KEEPS,
            "free page reporting is off in the VMM",
            "the balloon device has free-page-reporting off",
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
                "the guest's driver did not take free page reporting",
                f"it took: {', '.join(sorted(state.driver_features))}",
                # virtballoon_validate() in Linux's drivers/virtio/virtio_balloon.c
                f"{_NEEDS}; page_poison=1 or init_on_free=1 there withdraws it where the VMM does "
                "not offer page poison",
            )
        else:
            yield Finding(
                Severity.KEEPS,
                "no balloon driver has come up in the guest",
                "the device has negotiated no feature",
                "load virtio_balloon in the guest; or the guest has not booted yet",
            )
    elif offered and refused:
        yield Finding(
            Severity.KEEPS,
            "the guest's kernel reports no free pages",
            f"says the {seen.guest.source}",
            _NEEDS,
        )
    if "PAGE_POISON" in state.driver_features:
        yield Finding(
            Severity.MAY_KEEP,
            "the guest poisons free pages: QEMU keeps reported ones unless the poison is zero",
            "VIRTIO_BALLOON_F_PAGE_POISON is negotiated",
            "boot the guest without page_poison=1 (init_on_free=1 is harmless)",
        )


def _blockers(seen: Observation) -> Iterator[Finding]:
    for blocker in (*seen.vm.blockers, *seen.state.blockers):
        yield Finding(
            Severity.KEEPS,
            "the VMM keeps reported pages, and tells the guest that all is well",
            blocker,
            "without it, or by a balloon or virtio-mem where the device allows it",
        )


def _backing(seen: Observation, facts: HostFacts) -> Iterator[Finding]:
    if seen.host is not None and seen.host.ram_locked_bytes:
        yield Finding(
            Severity.KEEPS,
            "guest RAM is locked in memory",
            f"{size(seen.host.ram_locked_bytes)} Locked in smaps",
            "start the VM without memory locking (libvirt: <locked/>)",
        )
    # A file on hugetlbfs looks like any other on a command line: its mapping tells.
    measured = seen.host.ram_page_bytes if seen.host else 0
    page_bytes = max([measured, *(block.page_bytes for block in seen.vm.ram_blocks)])
    if page_bytes > facts.huge_page_bytes:
        yield Finding(
            Severity.KEEPS,
            f"guest RAM is made of {size(page_bytes)} pages, larger than any block that the guest "
            "reports",
            f"hugetlb pages of {size(page_bytes)}",
            "back it with 2 MiB huge pages, or with THP",
        )
    for block in seen.vm.ram_blocks:
        if block.prealloc:
            yield Finding(
                Severity.MAY_KEEP,
                f"RAM block {escape_for_terminal(block.name)} is preallocated: "
                "all of it is resident at start",
                "prealloc=on",
                "start the VM without prealloc",
            )
        if block.backing is Backing.FILE and not block.shared:
            yield Finding(
                Severity.MAY_KEEP,
                f"RAM block {escape_for_terminal(block.name)} is a private mapping of a file: the file's own "
                "pages stay when the copies are discarded",
                f"{escape_for_terminal(block.path)}, share=off",
                "use share=on, or memfd",
            )


def _host_settings(seen: Observation, facts: HostFacts) -> Iterator[Finding]:
    shared = any(b.shared or b.backing is Backing.MEMFD for b in seen.vm.ram_blocks)
    # VMMs ask for huge pages (madvise), so that the setting alone does not tell.
    eligible = seen.host.ram_thp_eligible if seen.host else None
    setting = facts.shmem_thp if shared else facts.thp_enabled
    name = "shmem_enabled" if shared else "enabled"
    evidence = f"transparent_hugepage/{name} is {setting}" if eligible is None else "THPeligible: 1"
    refills = facts.khugepaged_max_ptes_none
    if refills and (setting in ("always", "force") if eligible is None else eligible):
        yield Finding(
            Severity.MAY_KEEP,
            "khugepaged may fill again what a guest gave back in pieces below 2 MiB",
            f"{evidence}, khugepaged/max_ptes_none is {refills}",
            "echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none",
        )
    if facts.swap_accounted is False:
        yield Finding(
            Severity.BLINDS,
            "swap is not accounted to the VM's control group",
            "its cgroup has no memory.swap.current",
            "boot the host without swapaccount=0",
        )


def _agent(seen: Observation) -> Iterator[Finding]:
    """Without an agent, cold cache and free memory in small blocks stay, whatever the VMM offers."""
    if not lacks_agent(seen):
        return
    told = "; ".join(escape_for_terminal(problem, 300) for problem in seen.guest.problems)
    held = "" if seen.host is None else f"{size(seen.host.resident_bytes)} are resident on the host"
    yield Finding(
        Severity.KEEPS,
        "no giveback-agent in this guest: nothing there returns cold cache and small free blocks",
        "; ".join(filter(None, (told or _no_channel(seen), held))),
        "install it",
        install_agent(seen.vm),
    )


def _no_channel(seen: Observation) -> str:
    has = seen.vm.capabilities.agent_channel is Answer.YES
    return "it does not answer" if has else "the host has no channel to one"


def lacks_agent(seen: Observation) -> bool:
    """Whether no agent answers from a guest that runs, on a port that nobody else holds."""
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
            "nothing tells what the guest does with its memory",
            "; ".join(escape_for_terminal(p) for p in seen.guest.problems)
            or "no agent, no balloon statistics",
            "install giveback-agent, as above; where it runs, give it a port org.giveback.agent.0"
            if lacks_agent(seen)
            else "run giveback-agent in the guest, with a virtio-serial port org.giveback.agent.0",
        )
    if seen.vm.unread:
        yield Finding(
            Severity.BLINDS,
            "a part of the VM's configuration is not known from here",
            escape_for_terminal("; ".join(seen.vm.unread), 300),
            "run this as root; or give the VM a control socket that answers",
            start_options(seen.vm) if not seen.vm.control else (),
        )
    for problem in seen.problems:
        if problem not in seen.vm.unread:
            without = seen.vm.backend == "qemu" and not seen.vm.control
            yield Finding(
                Severity.BLINDS,
                "a side could not be read",
                escape_for_terminal(problem, 300),
                "give it one at its next start" if without else "see there",
                start_options(seen.vm)[-1:] if without else (),
            )


def _numbers(seen: Observation) -> Iterator[Finding]:
    """Why the guest's own numbers are old or missing: one reason, the nearest."""
    statistics = seen.state.statistics
    age_s = seen.guest.age_s
    from_agent = seen.guest.source in (GuestSource.AGENT, GuestSource.FILE)
    if seen.guest.agent_is_there:
        yield Finding(
            Severity.BLINDS,
            "the guest's agent gives no numbers just now: its answers take a tenth of a CPU at most",
            "; ".join(escape_for_terminal(problem, 300) for problem in seen.guest.problems),
            "ask again then; giveback daemon keeps its last answer",
        )
    elif seen.state.running is False:
        yield Finding(
            Severity.BLINDS,
            "the VM is paused: its guest answers nothing, and its numbers are old",
            "so the VMM says",
            "resume it",
        )
    elif statistics is not None and seen.state.statistics_period_s == 0 and not from_agent:
        last = "the guest has never answered"
        if age_s is not None:
            last = f"the last answer is {age_s:.0f} s old"
        yield Finding(
            Severity.BLINDS,
            "statistics polling is off: the VMM does not ask the guest for its numbers",
            f"the polling interval is 0; {last}",
            "turn it on; it needs no restart",
            turn_statistics_on(seen.vm),
        )
    elif age_s is not None and age_s > STALE_S:
        yield Finding(
            Severity.BLINDS,
            "the guest's numbers are stale: it is stuck, stopped, or no longer answers",
            f"the {seen.guest.source} are {age_s:.0f} s old",
            "look into the guest; a paused VM gives none",
        )
    elif (
        statistics is not None
        and statistics.updated_s == 0
        and seen.guest.source is GuestSource.NONE
    ):
        yield Finding(
            Severity.BLINDS,
            "balloon statistics have never come",
            "last-update is 0",
            "load virtio_balloon in the guest; or its kernel has not come up yet",
            () if seen.state.statistics_period_s else turn_statistics_on(seen.vm),
        )


def remedies(seen: Observation) -> tuple[Remedy, ...]:
    """What would bring memory back, the most first, each with what to expect of it.

    Where no agent answers, installing it comes before all else.
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
    """The cache of cgroups that have ended, which is not in what the agent calls cold."""
    return Remedy(
        "reclaim what ended services and containers left in the page cache (giveback-agent does it by "
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
            "wait: a pass of the guest's reporting takes about 30 s",
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
            "ask the guest (agent) for its free lists: what is free is held, in blocks not known",
            ledger.host(Key.FREE_UNSPLIT),
            at_most=True,
        ),
        Remedy(
            "reclaim the guest's cold page cache (giveback reclaim)",
            0 if can_come is None else can_come.cold_bytes,
            at_most=True,
            cost="what is read again must be read from disk",
            parts=cold_parts(guest.cgroups),
        ),
        _left_behind(guest, ledger, 0 if can_come is None else can_come.cold_bytes),
        *_ends(seen, ledger),
        Remedy(
            "shrink the guest's reclaimable slab",
            ledger.host(Key.SLAB_RECLAIMABLE),
            at_most=True,
            cost="file names are looked up again",
        ),
    ]
    amounts = [(remedy, remedy.expected_bytes or 0) for remedy in found]
    listed = sorted(amounts, key=lambda pair: -pair[1])
    return tuple(remedy for remedy, expected_bytes in listed if expected_bytes > 0)


def _ends(seen: Observation, ledger: Ledger) -> Iterator[Remedy]:
    """What stopping or restarting a program of the guest would free."""
    for name, held_bytes in programs(seen.guest.cgroups, ledger.ram_bytes // PROGRAM_DIVISOR):
        anon_bytes = ledger.host(Key.ANON) + ledger.host(Key.SHMEM)
        yield Remedy(
            f"stop or restart {name} in the guest",
            min(held_bytes, anon_bytes),
            at_most=True,
            cost="what it does meanwhile",
        )


def _to_turn_on(seen: Observation) -> str:
    """What makes the guest's free memory be reported, where it is not."""
    if seen.vm.capabilities.reports_pages is Answer.YES:
        return f"let the guest take the reporting that the VMM offers: {_NEEDS}"
    return _REMEDY_REPORTING.get(seen.vm.backend, _QEMU_REPORTING)


def _or_all(amount: int | None) -> int:
    return 1 << 62 if amount is None else amount
