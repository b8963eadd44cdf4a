"""The ledger on a real guest: it sums to the byte, and counted page by page it says the same."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from guest_memory import GuestMemory

from giveback.accounting.exact import Exact
from giveback.accounting.observation import Observation
from giveback.accounting.page_ledger import decode, join_pages, orders
from giveback.accounting.usage import GuestSource
from giveback.guest.observe import observe
from giveback.guest.protocol import from_agent
from giveback.host.procs import read_process
from giveback.reporters import page_table
from giveback.vmm.backends.qemu import QemuBackend
from giveback_kernel import kpageflags
from giveback_lab.vms.accel import choose_accel
from giveback_lab.vms.lab import Lab
from giveback_lab.vms.vm import LabVm, VmSpec

RAM_BYTES = 1 << 30
# The picture in lines short enough for any transport, and the seconds it took. Then it stays: what it
# uses itself must be in use for every reader, or they could only differ.
PICTURE = """
import sys, time
sys.path.insert(0, "/run/giveback-agent.pyz")
from giveback_agent.host_link import link
from giveback_agent.commands.picture import memory_report
from giveback_kernel import kpageflags
started = time.process_time()
for _ in kpageflags.read_chunks("/"):
    pass
took_s = time.process_time() - started
text = link.encode(memory_report("/", pages=True))
print(took_s)
for at in range(0, len(text), 4000):
    print(text[at : at + 4000])
print("end", flush=True)
time.sleep(600)
"""
LOOKS = 4
PICTURE_DEADLINE_S = 180
WORK = """
import os
held = bytearray(os.urandom(1 << 20)) * 60
os.makedirs("/work/many", exist_ok=True)
for number in range(400):
    with open(f"/work/many/{number}", "wb") as file:
        file.write(os.urandom(1 << 19))
for number in range(0, 400, 2):
    os.unlink(f"/work/many/{number}")
os.sync()
"""


@dataclass(frozen=True)
class Outside:
    """In pages: free by the struct pages, disputed by the guest's flags, in blocks of another order."""

    free: int
    disputed: int
    misplaced: int


Seen = tuple[Observation, Exact, float, int, Outside]


@pytest.fixture(scope="module")
def seen(lab: Lab) -> Seen:
    return asyncio.run(look(lab))


async def look(lab: Lab) -> Seen:
    """Boot, work, and look at the guest from both sides."""
    image, emulator = lab.image, lab.emulator
    accel = await choose_accel("auto", image, emulator)
    spec = VmSpec("ledger", RAM_BYTES, 1, accel.name)
    async with LabVm(spec, image, emulator) as vm:
        work = await vm.guest.exec("python3", "-c", WORK)
        assert work.code == 0, work.text
        # Reporting takes what it will take; then nothing moves while both sides are read.
        await settled(vm)
        await vm.qmp.disconnect()
        process = read_process("/", vm.pid)
        assert process is not None
        backend = QemuBackend()
        described = backend.recognise(process)
        assert described is not None
        for _ in range(LOOKS):
            lines = await report_lines(vm)
            said = json.loads("".join(lines[1:]))
            guest = from_agent(said, GuestSource.FILE)
            found = await observe(backend, described, layout=True, timeout_s=10, guest=guest)
            exact = join_pages(found, said)
            other = outside(found, said)
            if other.disputed * 4096 <= RAM_BYTES // 100:
                break
            # On a busy machine seconds lie between the two, and the guest goes on.
        return found, exact, float(lines[0]), allocated_bytes(found), other


async def report_lines(vm: LabVm) -> list[str]:
    """What the picture's program says until its end; it goes on with its memory in place."""
    lines: list[str] = []
    told = asyncio.Event()

    def take(line: str) -> None:
        if line == "end":
            told.set()
        else:
            lines.append(line)

    await vm.guest.spawn("python3", "-c", PICTURE, on_line=take)
    await asyncio.wait_for(told.wait(), PICTURE_DEADLINE_S)
    return lines


def outside(found: Observation, said: dict[str, object]) -> Outside:
    """What another reader, from outside, finds free: pages, and those that the guest's flags dispute."""
    memory = GuestMemory(ram_file(found))
    try:
        blocks = memory.free_orders()
    finally:
        memory.close()
    flags = decode(str(said["pages"]), len(blocks))
    flags = np.pad(flags, (0, len(blocks) - len(flags)))
    told = flags == kpageflags.FREE
    by_order = {order: int((blocks == order).sum()) for order in range(11)}
    guessed = orders(flags)
    return Outside(
        int((blocks >= 0).sum()),
        int(((blocks >= 0) != told).sum()),
        sum(abs(n - int((guessed == order).sum())) for order, n in by_order.items()) // 2,
    )


def ram_file(found: Observation) -> Path:
    ((start, end),) = found.bound[0].ranges
    return Path(f"/proc/{found.vm.pid}/map_files/{start:x}-{end:x}")


def allocated_bytes(found: Observation) -> int:
    """Another reader of the host's side: what the kernel has allocated to the memfd."""
    return ram_file(found).stat().st_blocks * 512


async def settled(vm: LabVm) -> None:
    """Wait until the host holds the same for three seconds, or half a minute has passed."""
    same, before = 0, -1
    for _ in range(30):
        await asyncio.sleep(1)
        now = vm.resident_bytes()
        same = same + 1 if abs(now - before) < 1 << 20 else 0
        before = now
        if same >= 3:
            return


def test_the_rows_sum_to_the_byte(seen: Seen) -> None:
    found, *_ = seen
    assert found.problems == ()
    assert found.ledger is not None
    assert found.host is not None
    assert found.ledger.ram_bytes == RAM_BYTES
    assert sum(row.ram_bytes for row in found.ledger.rows) == RAM_BYTES
    assert sum(row.host_bytes for row in found.ledger.rows) == found.host.charged_bytes


def test_page_by_page_it_is_the_whole_of_ram(seen: Seen) -> None:
    _, exact, *_ = seen
    assert exact.ram_bytes == RAM_BYTES


def test_sampled_and_exact_agree_within_one_percent(seen: Seen) -> None:
    found, exact, guest_s, allocated, _ = seen
    assert found.ledger is not None
    assert found.ledger.residue_bytes is not None
    assert found.host is not None
    resident = exact.resident_bytes - found.host.ram_resident_bytes
    residue = exact.residue_bytes - found.ledger.residue_bytes
    mib = 1 << 20
    free = sum(row.ram_bytes for row in exact.free_by_order)
    assert found.guest.free_bytes is not None
    print(f"\nmemfd allocated - exact: {(allocated - exact.resident_bytes) / mib:.1f} MiB")
    print(f"guest's MemFree - free page flags: {(found.guest.free_bytes - free) / mib:.1f} MiB")
    print(f"\nexact - sampled: resident {resident / mib:.1f} MiB, residue {residue / mib:.1f} MiB")
    print(f"the guest took {guest_s * (1 << 30) / RAM_BYTES:.2f} s of CPU per GiB")
    print(page_table.text(exact))
    for row in found.ledger.rows:
        print(f"{row.key:<56} {row.ram_bytes / mib:9.1f} {row.host_bytes / mib:9.1f}")
    assert abs(allocated - exact.resident_bytes) <= RAM_BYTES // 100
    assert abs(resident) <= RAM_BYTES // 100
    pcp = found.guest.pcp_bytes or 0
    assert -RAM_BYTES // 100 <= residue <= pcp + RAM_BYTES // 100


def test_another_reader_of_the_guests_memory_finds_the_same_pages_free(seen: Seen) -> None:
    _, exact, _, _, outside = seen
    free = sum(row.ram_bytes for row in exact.free_by_order) // 4096
    print(f"\nfree by the guest's flags {free} pages, by its struct pages {outside.free}")
    print(f"disputed {outside.disputed} pages, {outside.disputed * 4096 / RAM_BYTES:.3%} of RAM")
    print(f"in blocks of another order than the largest aligned one: {outside.misplaced} pages")
    assert outside.disputed * 4096 <= RAM_BYTES // 100
