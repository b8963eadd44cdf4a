"""What can be turned on in a QEMU that runs: a balloon that reports, and the guest's statistics.

What will be done is a `LivePlan` first: it can be shown, then carried out. Reporting of a balloon that
is there already is fixed: its property takes no change after the start (hw/virtio/virtio-balloon.c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.vmm.backends.qemu import POLLING, balloon_path
from giveback.vmm.base import amount
from giveback.vmm.control.agent_port import PortStep, pci_place
from giveback.vmm.control.devices import TIMEOUT_S

if TYPE_CHECKING:
    from giveback.vmm.base import VmDescription

BALLOON = "giveback-balloon"
"""What QEMU calls a balloon that was plugged in."""


@dataclass(frozen=True, slots=True)
class LivePlan:
    """What can be done now, and why something cannot."""

    control: str
    pid: int
    steps: tuple[PortStep, ...]
    refusals: tuple[str, ...] = ()


async def plan(vm: VmDescription, period_s: int) -> LivePlan:
    """What a QEMU with a monitor lacks and takes while it runs. Raises VmError."""
    from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

    steps: list[PortStep] = []
    async with monitor(vm.control, vm.pid, TIMEOUT_S) as session:
        device = await balloon_path(session)
        if device is None:
            try:
                place = await pci_place(session, vm, "virtio-balloon-pci,free-page-reporting=on")
            except InputError as error:
                return LivePlan(vm.control, vm.pid, (), (str(error),))
            reporting = {"free-page-reporting": True, **place}
            driver = {"driver": "virtio-balloon-pci", "id": BALLOON, **reporting}
            steps.append(PortStep("device_add", driver))
            device, period = f"/machine/peripheral/{BALLOON}", 0
        else:
            period = amount(await session.ask("qom-get", path=device, property=POLLING)) or 0
    if period != period_s:
        asked: dict[str, object] = {"path": device, "property": POLLING, "value": period_s}
        steps.append(PortStep("qom-set", asked))
    return LivePlan(vm.control, vm.pid, tuple(steps))


async def carry_out(planned: LivePlan) -> None:
    """Do it. Raises VmError with QEMU's words at the first step that it refuses."""
    from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

    async with monitor(planned.control, planned.pid, TIMEOUT_S) as session:
        for step in planned.steps:
            await session.tell(step.command, **step.arguments)
