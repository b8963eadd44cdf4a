"""Any process, by --pid: the host's side only, for VMMs that we do not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.host import smaps
from giveback.host.procs import Process, read_process
from giveback.vmm.base import Answer, Backing, Capabilities, RamBlock, VmDescription, VmState
from giveback.vmm.mapping import groups
from giveback_kernel.units import MIB, size

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_RAM_BYTES = 16 * MIB


class ProcessBackend:
    """One process of which nothing is known but its mappings."""

    name = "process"
    layout_taints = False

    def recognise(self, process: Process) -> VmDescription | None:
        """Never of its own accord: only `describe` with a PID that the user gave."""
        del process
        return None

    async def inspect(
        self, vm: VmDescription, *, layout: bool = False, timeout_s: float = 2.0
    ) -> VmState:
        del vm, layout, timeout_s
        return VmState(problems=("an unknown VMM: only the host's side can be told",))

    def describe(self, pid: int, ram_bytes: int | None = None, root: str = "/") -> VmDescription:
        """The process as a VM of `ram_bytes`, or of as much as its largest mapping.

        Raises InputError where there is no such process or it maps nothing that could be RAM, and
        VmError where it may not be read.
        """
        process = read_process(root, pid)
        if process is None:
            raise InputError(f"no process has the PID {pid}")
        _, mappings = smaps.scan(smaps.pieces_of(root, pid), at_least_bytes=MIB)
        block = ram_block(mappings, ram_bytes)
        if block is None:
            raise InputError(
                f"process {pid} maps nothing of {size(ram_bytes or _LEAST_RAM_BYTES)} or more that "
                "could be guest RAM; is it the VMM's own process?"
            )
        no = Answer.NO
        return VmDescription(
            backend=self.name,
            name=process.program or f"pid-{pid}",
            pid=pid,
            ram_bytes=block.size_bytes,
            ram_blocks=(block,),
            capabilities=Capabilities(agent_channel=no, statistics=no),
            notes=() if ram_bytes else ("RAM is taken to be the largest mapping; --ram says it",),
        )


def ram_block(mappings: Sequence[smaps.Mapping], ram_bytes: int | None) -> RamBlock | None:
    """The block that guest RAM is taken to be, or None."""
    found = groups(mappings)
    exact = [run for run in found if run.size_bytes == ram_bytes]
    if ram_bytes is not None and not exact:
        # Perhaps in pieces around a hole: the binding looks for those.
        return RamBlock("ram", ram_bytes)
    largest = max(exact or found, key=lambda run: run.size_bytes, default=None)
    if largest is None or (ram_bytes is None and largest.size_bytes < _LEAST_RAM_BYTES):
        return None
    first = largest.mappings[0]
    memfd = first.name.startswith("/memfd:")
    named = Backing.MEMFD if memfd else Backing.FILE
    return RamBlock(
        "ram",
        largest.size_bytes,
        named if first.inode else Backing.ANONYMOUS,
        path="" if memfd or not first.inode else first.name.removesuffix(" (deleted)"),
        shared=first.permissions.endswith("s"),
    )
