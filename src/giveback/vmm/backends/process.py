"""Any process given by --pid: the host's side only, for VMMs that giveback does not know."""

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
    """The backend for a process of which only the mappings are known."""

    name = "process"
    layout_taints = False

    def recognise(self, process: Process) -> VmDescription | None:
        """Return None: a process is described only if the user gives its PID."""
        del process
        return None

    async def inspect(
        self, vm: VmDescription, *, layout: bool = False, timeout_s: float = 2.0
    ) -> VmState:
        """Implement `Backend`: there is nothing to ask."""
        del vm, layout, timeout_s
        return VmState(problems=("an unknown VMM: only the host's side is known",))

    def describe(self, pid: int, ram_bytes: int | None = None, root: str = "/") -> VmDescription:
        """Describe the process as a VM of `ram_bytes`; if None, of the size of its largest mapping.

        Raises InputError if there is no such process or none of its mappings can be RAM, and VmError if
        its mappings cannot be read.
        """
        process = read_process(root, pid)
        if process is None:
            raise InputError(f"no process has the PID {pid}")
        _, mappings = smaps.scan(smaps.pieces_of(root, pid), at_least_bytes=MIB)
        block = ram_block(mappings, ram_bytes)
        if block is None:
            raise InputError(
                f"process {pid} has no mapping of {size(ram_bytes or _LEAST_RAM_BYTES)} or more that "
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
            notes=()
            if ram_bytes
            else ("the largest mapping is assumed to be RAM; --ram gives its size",),
        )


def ram_block(mappings: Sequence[smaps.Mapping], ram_bytes: int | None) -> RamBlock | None:
    """Return the block that is assumed to be guest RAM, or None."""
    found = groups(mappings)
    exact = [run for run in found if run.size_bytes == ram_bytes]
    if ram_bytes is not None and not exact:
        # RAM may lie in pieces around a hole: `giveback.vmm.mapping.bind` searches for those.
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
