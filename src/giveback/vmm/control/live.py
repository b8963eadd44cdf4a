"""Turn on features in a running QEMU: a balloon that reports free pages, and the guest's statistics.

A `LivePlan` lists the steps: it can be shown first, then carried out. Reporting of an existing balloon is
fixed: its property cannot be changed after the start (hw/virtio/virtio-balloon.c).
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
"""QEMU's id of a balloon that giveback plugged in."""


@dataclass(frozen=True, slots=True)
class LivePlan:
    """The steps that are possible now, and the reasons why others are not."""

    control: str
    pid: int
    steps: tuple[PortStep, ...]
    refusals: tuple[str, ...] = ()


async def plan(vm: VmDescription, period_s: int) -> LivePlan:
    """Plan the steps for a QEMU that has a monitor. Raises VmError if it does not answer."""
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
    """Carry out the steps. Raises VmError with QEMU's message at the first step that it refuses."""
    from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

    async with monitor(planned.control, planned.pid, TIMEOUT_S) as session:
        for step in planned.steps:
            await session.execute(step.command, **step.arguments)
