"""Read the host's charge for a VM: its process's mappings, and guest RAM among them.

A reader process reads them. A stranger's process that poses as a VMM may have 65,000 mappings, or hold its
mmap lock forever.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from giveback.accounting.usage import HostSnapshot
from giveback.errors import VmError
from giveback.host import procs, smaps
from giveback.host.readers import plain
from giveback.host.readers.pool import Limits
from giveback.vmm.base import RamBlock
from giveback.vmm.mapping import BoundBlock, bind, within

if TYPE_CHECKING:
    from giveback.host.readers.pool import Readers
    from giveback.vmm.base import VmDescription, VmState

LEAST_MAPPING_BYTES = 1 << 20
LIMITS = Limits(wall_s=10.0, cpu_s=10.0)
"""The kernel needs some seconds to walk a mapping of one TiB in small pages."""


async def read_host(
    readers: Readers, vm: VmDescription, state: VmState, root: str = "/", limits: Limits = LIMITS
) -> tuple[HostSnapshot, tuple[BoundBlock, ...], float]:
    """Return the host's snapshot of the VM, the place of its RAM blocks, and the seconds it took to read.

    Raises VmError if the mappings cannot be read.
    """
    blocks, addresses = vm.ram_blocks, dict(state.host_addresses)
    answer = await readers.call(
        read_mappings, root, vm.pid, blocks, addresses, pid=vm.pid, limits=limits
    )
    try:
        return plain.unpack(tuple[HostSnapshot, tuple[BoundBlock, ...], float], answer)
    except ValueError as error:
        raise VmError(f"the reader of process {vm.pid} sent a malformed answer: {error}") from error


def read_mappings(
    root: str, pid: int, blocks: object, addresses: dict[str, int]
) -> tuple[HostSnapshot, tuple[BoundBlock, ...], float]:
    """Read the mappings of a process and find its RAM blocks among them. Raises VmError.

    Runs in a reader process.
    """
    started_s = time.monotonic()
    ram_blocks = plain.unpack(tuple[RamBlock, ...], blocks)
    whole, candidates = smaps.scan(smaps.pieces_of(root, pid), LEAST_MAPPING_BYTES)
    bound = bind(ram_blocks, candidates, addresses)
    places = [place for block in bound for place in block.ranges]
    mappings = within(candidates, places)
    ram = smaps.add(mapping.usage for mapping in mappings)
    eligible = {mapping.thp_eligible for mapping in mappings} - {None}
    own = whole - ram
    ram_twice_bytes = smaps.hugetlb_twice_bytes(mappings)
    own_twice_bytes = smaps.hugetlb_twice_bytes(candidates) - ram_twice_bytes
    status = procs.status_bytes(root, pid)
    snapshot = HostSnapshot(
        ram_resident_bytes=ram.resident_bytes,
        ram_swap_bytes=ram.swap_bytes,
        ram_pss_bytes=ram.pss_bytes + ram.hugetlb_bytes - ram_twice_bytes,
        ram_shared_bytes=max(0, ram.rss_bytes - ram.pss_bytes) + ram_twice_bytes,
        ram_huge_bytes=ram.huge_bytes + ram.hugetlb_bytes,
        ram_locked_bytes=ram.locked_bytes,
        ram_ksm_bytes=ram.ksm_bytes,
        ram_page_bytes=max((mapping.kernel_page_bytes for mapping in mappings), default=4096),
        ram_thp_eligible=True in eligible if eligible else None,
        own_resident_bytes=own.resident_bytes,
        own_pss_bytes=own.pss_bytes + max(0, own.hugetlb_bytes - own_twice_bytes),
        own_swap_bytes=own.swap_bytes,
        own_twice_bytes=own_twice_bytes,
        page_tables_bytes=status.get("VmPTE", 0),
        peak_resident_bytes=status.get("VmHWM", 0) + ram.hugetlb_bytes + own.hugetlb_bytes,
        sure=bool(bound) and all(block.sure for block in bound),
        placed=bool(bound) and all(block.ranges for block in bound),
    )
    return snapshot, bound, time.monotonic() - started_s
