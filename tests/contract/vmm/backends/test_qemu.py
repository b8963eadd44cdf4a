"""The real QEMU: paused VMs are found and described, their RAM is located, their monitor asked."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_qemu import described, running

from giveback.errors import VmError
from giveback.guest.observe import observe
from giveback.guest.query import read_pages
from giveback.host import smaps
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import Answer, Backing, ChannelKind, VmDescription
from giveback.vmm.clients.qmp import monitor
from giveback.vmm.find import find
from giveback.vmm.mapping import BoundBlock, bind, within

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB, GIB = 1 << 20, 1 << 30
HUGE_PAGES = 32

SHAPES = {
    "anonymous": ["-m", "192M"],
    "backend-ram": ["-m", "192M", "-machine", "memory-backend=m0",
                    "-object", "memory-backend-ram,id=m0,size=192M"],
    "shared-ram": ["-m", "192M", "-machine", "memory-backend=m0",
                   "-object", "memory-backend-ram,id=m0,size=192M,share=on"],
    "memfd": ["-m", "192M", "-machine", "memory-backend=m0",
              "-object", "memory-backend-memfd,id=m0,size=192M"],
    "json": ["-m", "size=192M", "-machine", "memory-backend=pc.ram",
             "-object", '{"qom-type":"memory-backend-memfd","id":"pc.ram","size":201326592}'],
    "file": ["-m", "192M", "-machine", "memory-backend=m0",
             "-object", "memory-backend-file,id=m0,size=192M,mem-path={dir}/ram,,image,share=on"],
    "file-private": ["-m", "192M", "-mem-path", "{dir}"],
    "numa": ["-m", "192M", "-numa", "node,memdev=n0", "-numa", "node,memdev=n1",
             "-object", "memory-backend-ram,id=n0,size=64M",
             "-object", "memory-backend-memfd,id=n1,size=128M"],
    "numa-alike": ["-m", "192M", "-numa", "node,memdev=n0", "-numa", "node,memdev=n1",
                   "-object", "memory-backend-ram,id=n0,size=96M",
                   "-object", "memory-backend-ram,id=n1,size=96M"],
    "microvm": ["-M", "microvm", "-m", "192M"],
    "dimm": ["-m", "64M,slots=2,maxmem=1G", "-object", "memory-backend-ram,id=d0,size=128M",
             "-device", "pc-dimm,memdev=d0"],
}  # fmt: skip


def located(vm: VmDescription, *, ask: bool) -> tuple[BoundBlock, ...]:
    state = asyncio.run(QemuBackend().inspect(vm, layout=True, timeout_s=10))
    assert state.problems == ()
    mappings = smaps.parse_smaps(smaps.read_smaps("/", vm.pid))
    return bind(vm.ram_blocks, mappings, state.host_addresses if ask else None)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_ram_of_every_backing_is_found(shape: str, tmp_path: Path) -> None:
    with running(tmp_path, *SHAPES[shape]) as process:
        vm = described(process)
        assert vm.ram_bytes == 192 * MIB
        assert vm.block_bytes == 192 * MIB
        told = located(vm, ask=True)
        guessed = located(vm, ask=False)
        # A place found without the monitor, and marked as sure, is the one that QEMU tells.
        for exact, guess in zip(told, guessed, strict=True):
            assert sum(end - start for start, end in guess.ranges) == guess.block.size_bytes
            assert exact.ranges == guess.ranges or not guess.sure
        assert sum(e - s for block in told for s, e in block.ranges) == 192 * MIB
        assert [block.sure for block in guessed] == (
            [False, True] if shape == "numa-alike" else [True] * len(guessed)
        )


@pytest.mark.parametrize(
    ("machine", "ram_gib", "ranges"),
    [("q35", 1, 1), ("q35", 4, 2), ("pc", 6, 2), ("microvm", 5, 2)],
)
def test_the_hole_below_four_gib(machine: str, ram_gib: int, ranges: int, tmp_path: Path) -> None:
    with running(tmp_path, "-m", f"{ram_gib}G", machine=machine) as process:
        vm = described(process)
        state = asyncio.run(QemuBackend().inspect(vm, layout=True, timeout_s=10))
        # The BIOS hides a little RAM below 1 MiB until it has run.
        ram = [r for r in state.layout if r.block == "ram"]
        large = [r for r in ram if r.size_bytes > MIB]
        assert len(large) == ranges
        assert sum(r.size_bytes for r in ram) >= ram_gib * GIB - (512 << 10)
        assert large[0].guest_start == large[0].block_offset <= MIB
        if ranges == 2:
            assert large[1].guest_start == 4 * GIB
            assert large[1].block_offset == ram_gib * GIB - large[1].size_bytes


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """32 free huge pages of 2 MiB; as root, the kernel adds missing ones for the duration of the test."""
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    free = int((pool / "free_hugepages").read_text())
    before = int((pool / "nr_hugepages").read_text())
    try:
        if free < HUGE_PAGES and os.geteuid() == 0:
            (pool / "nr_hugepages").write_text(str(before + HUGE_PAGES - free))
            free = int((pool / "free_hugepages").read_text())
        if free < HUGE_PAGES:
            pytest.skip(f"only {free} huge pages of 2 MiB are free on this host; 32 are needed")
        yield
    finally:
        if os.geteuid() == 0:
            (pool / "nr_hugepages").write_text(str(before))


@pytest.mark.usefixtures("huge_pages")
def test_hugetlb_pages(tmp_path: Path) -> None:
    memory = "memory-backend-memfd,id=m0,size=64M,hugetlb=on,hugetlbsize=2M,prealloc=on"
    words = ["-m", "64M", "-machine", "memory-backend=m0", "-object", memory]
    with running(tmp_path, *words) as process:
        vm = described(process)
        (block,) = vm.ram_blocks
        assert (block.backing, block.page_bytes, block.prealloc) == (Backing.HUGETLB, 2 * MIB, True)
        (bound,) = located(vm, ask=False)
        mappings = smaps.parse_smaps(smaps.read_smaps("/", vm.pid))
        usage = smaps.add(mapping.usage for mapping in within(mappings, bound.ranges))
        assert usage.resident_bytes == 64 * MIB


def test_everything_on_the_command_line(tmp_path: Path) -> None:
    words = [
        "-name", "guest=web 1,debug-threads=on", "-m", "128M",
        "-device", "virtio-balloon-pci,id=b0,free-page-reporting=on,deflate-on-oom=on",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=c0,path={tmp_path}/agent,server=on,wait=off",
        "-device", "virtserialport,chardev=c0,name=org.giveback.agent.0",
        "-chardev", f"socket,id=c1,path={tmp_path}/qga,server=on,wait=off",
        "-device", "virtserialport,chardev=c1,name=org.qemu.guest_agent.0",
    ]  # fmt: skip
    with running(tmp_path, *words) as process:
        vm = described(process)
        assert (vm.name, vm.backend, vm.machine) == ("web 1", "qemu", "q35")
        assert vm.capabilities.reports_pages is Answer.YES
        assert vm.capabilities.deflate_on_oom
        assert vm.capabilities.agent_channel is Answer.YES
        assert [c.kind for c in vm.channels] == [
            ChannelKind.VIRTIO_SERIAL,
            ChannelKind.QEMU_GUEST_AGENT,
        ]
        assert Path(vm.channels[0].path).samefile(tmp_path / "agent")
        state = asyncio.run(QemuBackend().inspect(vm, layout=True, timeout_s=10))
        assert state.running is False
        assert (state.ram_bytes, state.balloon_bytes) == (128 * MIB, 0)
        assert state.statistics is not None
        assert state.statistics.updated_s == 0
        assert state.statistics.free_bytes is None
        assert state.reporting_negotiated is Answer.NO  # no driver has come: the guest never ran
        assert state.blockers == ()


def test_a_port_that_no_program_in_the_guest_opened_is_not_waited_for(tmp_path: Path) -> None:
    """The socket accepts connections in any case; QEMU knows that no program has opened the port."""
    words = [
        "-m", "64M", "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=c0,path={tmp_path}/agent,server=on,wait=off",
        "-device", "virtserialport,chardev=c0,name=org.giveback.agent.0",
    ]  # fmt: skip
    with running(tmp_path, *words) as process:
        vm = described(process)
        seen = asyncio.run(observe(QemuBackend(), vm, timeout_s=10, guest_timeout_s=1000))
        with pytest.raises(VmError, match="no program in the guest has opened"):
            asyncio.run(read_pages(vm, closed=seen.state.closed_ports))
    assert seen.state.closed_ports == {vm.channels[0].path}
    assert "no giveback-agent runs there" in seen.guest.problems[0]


def test_memory_that_was_plugged_in_later(tmp_path: Path) -> None:
    """The command line does not show it; without its block, its pages would count as the VMM's own."""

    async def plug() -> None:
        async with monitor(str(tmp_path / "qmp"), vm.pid, 10) as session:
            for name, kind in (("d1", "memory-backend-ram"), ("d2", "memory-backend-memfd")):
                await session.execute(
                    "object-add", **{"qom-type": kind, "id": name, "size": 128 * MIB}
                )
                await session.execute(
                    "device_add", driver="pc-dimm", id=f"dimm-{name}", memdev=name
                )

    with running(tmp_path, "-m", "64M,slots=4,maxmem=1G") as process:
        vm = described(process)
        before = asyncio.run(QemuBackend().inspect(vm, timeout_s=10))
        asyncio.run(plug())
        seen = asyncio.run(observe(QemuBackend(), vm, timeout_s=10))
        placed = asyncio.run(observe(QemuBackend(), vm, layout=True, timeout_s=10))
    assert before.description is None
    assert (seen.vm.ram_bytes, seen.vm.block_bytes) == (320 * MIB, 320 * MIB)
    assert [block.name for block in seen.vm.ram_blocks] == ["ram", "d1", "d2"]
    assert seen.problems == placed.problems == ()
    assert seen.ledger is not None
    assert seen.ledger.ram_bytes == 320 * MIB
    assert [b.ranges[0][1] - b.ranges[0][0] for b in placed.bound] == [64 * MIB] + [128 * MIB] * 2
    assert [b.ranges for b in seen.bound] == [b.ranges for b in placed.bound]


def test_a_balloon_without_an_id_and_a_vm_without_a_balloon(tmp_path: Path) -> None:
    for number, words in enumerate((["-device", "virtio-balloon-pci"], [])):
        directory = tmp_path / str(number)
        directory.mkdir()
        with running(directory, "-m", "64M", *words) as process:
            vm = described(process)
            state = asyncio.run(QemuBackend().inspect(vm, timeout_s=10))
            assert state.problems == ()
            assert (state.statistics is not None) == bool(words)
            assert vm.capabilities.balloon is Answer.of(bool(words))
            assert vm.capabilities.reports_pages is Answer.NO


def test_a_running_vm_is_found_among_the_hosts_processes(tmp_path: Path) -> None:
    with running(tmp_path, "-m", "64M", "-name", f"found-{os.getpid()}") as process:
        assert [vm.pid for _, vm in find() if vm.name == f"found-{os.getpid()}"] == [process.pid]
    assert [vm for _, vm in find() if vm.name == f"found-{os.getpid()}"] == []


def test_the_error_says_that_another_program_holds_the_monitor(tmp_path: Path) -> None:
    with running(tmp_path, "-m", "64M") as process, socket.socket(socket.AF_UNIX) as holder:
        holder.connect(str(tmp_path / "qmp"))
        assert b"QMP" in holder.recv(4096)
        state = asyncio.run(QemuBackend().inspect(described(process), timeout_s=0.3))
        assert "another program" in state.problems[0]


def test_a_monitor_that_is_held_is_not_waited_for(tmp_path: Path) -> None:
    with running(tmp_path, "-m", "64M") as process, socket.socket(socket.AF_UNIX) as holder:
        holder.connect(str(tmp_path / "qmp"))
        assert b"QMP" in holder.recv(4096)
        # This is shorter than the test's own time limit: the monitor stays held.
        state = asyncio.run(QemuBackend().inspect(described(process), timeout_s=3600))
        assert "another program" in state.problems[0]


def test_a_monitor_under_a_long_path(tmp_path: Path) -> None:
    with running(tmp_path, "-m", "64M") as process:
        deep = tmp_path / ("d" * 120)
        deep.mkdir()
        (deep / "qmp").hardlink_to(tmp_path / "qmp")
        vm = described(process)
        control = str(deep / "qmp")
        moved = VmDescription(vm.backend, vm.name, vm.pid, vm.ram_bytes, (), control=control)
        state = asyncio.run(QemuBackend().inspect(moved, timeout_s=10))
        assert state.problems == ()


def test_a_vm_that_ends_during_the_session(tmp_path: Path) -> None:
    with ExitStack() as stack:
        process = stack.enter_context(running(tmp_path, "-m", "64M"))
        vm = described(process)
        stack.close()
        state = asyncio.run(QemuBackend().inspect(vm, timeout_s=2))
        assert "ended" in state.problems[0] or "listens" in state.problems[0]
