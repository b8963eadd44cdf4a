"""Why memory does not come back, and what would bring it back. Pure: from an observation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from giveback.accounting.ledger import Key
from giveback.accounting.reporting import Reporting, reporting_of
from giveback.accounting.usage import STALE_S, GuestSource
from giveback.vmm.base import Answer, Backing
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.accounting.observation import Observation
    from giveback.host.facts import HostFacts

_QEMU_REPORTING = "start it with -device virtio-balloon-pci,free-page-reporting=on"
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
    BLINDS = "hides memory"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason, with its evidence and its remedy."""

    severity: Severity
    what: str
    evidence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something that brings memory back. `expected_bytes` is an upper bound where `at_most`."""

    what: str
    expected_bytes: int
    at_most: bool = False
    cost: str = ""


def findings(seen: Observation, facts: HostFacts) -> tuple[Finding, ...]:
    """Every reason why this VM's memory does not come back, the surest first."""
    found = [
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
        )
    elif reporting is Reporting.OFF:
        yield Finding(
            Severity.KEEPS,
            "free page reporting is off in the VMM",
            "the balloon device has no free-page-reporting=on",
            remedy,
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


def _sight(seen: Observation) -> Iterator[Finding]:
    statistics = seen.state.statistics
    if (
        statistics is not None
        and statistics.updated_s == 0
        and seen.guest.source is GuestSource.NONE
    ):
        yield Finding(
            Severity.BLINDS,
            "balloon statistics have never come",
            "last-update is 0",
            "set guest-stats-polling-interval (libvirt: virsh dommemstat --period 5); or the "
            "guest's driver is missing",
        )
    if seen.guest.age_s is not None and seen.guest.age_s > STALE_S:
        yield Finding(
            Severity.BLINDS,
            "the guest's numbers are stale: it is stuck, stopped, or no longer answers",
            f"the {seen.guest.source} are {seen.guest.age_s:.0f} s old",
            "look into the guest; a paused VM gives none",
        )
    elif seen.guest.source is GuestSource.NONE:
        yield Finding(
            Severity.BLINDS,
            "nothing tells what the guest does with its memory",
            "; ".join(escape_for_terminal(p) for p in seen.guest.problems)
            or "no agent, no balloon statistics",
            "run giveback-agent in the guest, with a virtio-serial port org.giveback.agent.0",
        )
    for problem in seen.problems:
        yield Finding(
            Severity.BLINDS,
            "a side could not be read",
            escape_for_terminal(problem, 300),
            "see there",
        )


def remedies(seen: Observation) -> tuple[Remedy, ...]:
    """What would bring memory back, the most first, each with what to expect of it."""
    if seen.ledger is None or seen.ledger.residue_bytes is None:
        return ()
    ledger, guest = seen.ledger, seen.guest
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
            "reclaim the guest's cold page cache",
            min(guest.cold_cache_bytes or 0, ledger.host(Key.CACHE_CLEAN)),
            at_most=True,
            cost="what is read again must be read from disk",
        ),
        Remedy(
            "shrink the guest's reclaimable slab",
            ledger.host(Key.SLAB_RECLAIMABLE),
            at_most=True,
            cost="file names are looked up again",
        ),
    ]
    return tuple(
        sorted((r for r in found if r.expected_bytes > 0), key=lambda r: -r.expected_bytes)
    )


def _to_turn_on(seen: Observation) -> str:
    """What makes the guest's free memory be reported, where it is not."""
    if seen.vm.capabilities.reports_pages is Answer.YES:
        return f"let the guest take the reporting that the VMM offers: {_NEEDS}"
    return _REMEDY_REPORTING.get(seen.vm.backend, _QEMU_REPORTING)


def _or_all(amount: int | None) -> int:
    return 1 << 62 if amount is None else amount
