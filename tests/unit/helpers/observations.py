"""An observation of a VM of 1 GiB that was never run, for the tests of reporters."""

from __future__ import annotations

from dataclasses import replace

from giveback.accounting.observation import Observation
from giveback.accounting.usage import GuestSnapshot, GuestSource, HostSnapshot
from giveback.guest.observe import make_ledger
from giveback.vmm.base import Answer, Capabilities, RamBlock, VmDescription, VmState

MIB, GIB = 1 << 20, 1 << 30
GUEST = GuestSnapshot(
    source=GuestSource.AGENT,
    age_s=0.0,
    total_bytes=950 * MIB,
    free_bytes=600 * MIB,
    anon_bytes=100 * MIB,
    cache_bytes=150 * MIB,
    cold_cache_bytes=100 * MIB,
    free_by_order=(100 * MIB,) * 6,
    report_order=4,
)
HOST = HostSnapshot(774 * MIB, own_resident_bytes=50 * MIB)


def observation(
    name: str = "one",
    pid: int = 1,
    *,
    host: HostSnapshot | None = HOST,
    guest: GuestSnapshot = GUEST,
    problems: tuple[str, ...] = (),
) -> Observation:
    """Reporting is on; 350 MiB of the 774 MiB that are resident are residue."""
    vm = VmDescription(
        "qemu", name, pid, GIB, (RamBlock("ram", GIB),), Capabilities(Answer.YES, Answer.YES)
    )
    state = VmState(running=True, ram_bytes=GIB, reporting_negotiated=Answer.YES)
    ledger = None if host is None else make_ledger(vm, state, host, guest)
    return replace(Observation(vm, state, host, guest, ledger), problems=problems)
