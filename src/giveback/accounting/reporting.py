"""Whether a VM's free pages are reported, from the VMM's settings and the guest's answers. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from giveback.vmm.base import Answer

if TYPE_CHECKING:
    from giveback.accounting.usage import GuestSnapshot
    from giveback.vmm.base import VmDescription, VmState


class Reporting(StrEnum):
    """State of free page reporting in a VM, from the device to the guest's kernel.

    The values are the texts of the column.
    """

    NO_DEVICE = "no device"
    OFF = "off"
    NOT_TAKEN = "not taken"
    ON = "on"
    OFFERED = "offered"
    """The VMM offers it; whether the guest's driver accepted it is not known."""
    UNKNOWN = "?"


def reporting_of(vm: VmDescription, state: VmState, guest: GuestSnapshot) -> Reporting:
    """Return the state of reporting: the first obstacle between the device and the guest's kernel."""
    if vm.capabilities.balloon is Answer.NO:
        return Reporting.NO_DEVICE
    if vm.capabilities.reports_pages is Answer.NO:
        return Reporting.OFF
    reports = is_reported(guest.reporting, vmm_takes_reports(vm, state))
    if reports is not None:
        return Reporting.ON if reports else Reporting.NOT_TAKEN
    offered = vm.capabilities.reports_pages is Answer.YES
    return Reporting.OFFERED if offered else Reporting.UNKNOWN


def reporting_label(vm: VmDescription, state: VmState, guest: GuestSnapshot) -> str:
    """Return the text of the column: the state of reporting, or `blocked` if the VMM discards nothing."""
    found = reporting_of(vm, state, guest)
    taken = found not in (Reporting.NO_DEVICE, Reporting.OFF)
    return "blocked" if taken and (vm.blockers or state.blockers) else str(found)


def vmm_takes_reports(vm: VmDescription, state: VmState) -> bool | None:
    """Return whether the VMM accepts reports: by its settings, and by the negotiated features.

    None if neither tells.
    """
    negotiated = state.reporting_negotiated
    if Answer.NO in (vm.capabilities.reports_pages, negotiated):
        return False
    return True if negotiated is Answer.YES else None


def is_reported(guest_reports: bool | None, vmm_takes: bool | None) -> bool | None:
    """Return whether reports reach the VMM: no side denies it and at least one confirms it.

    None if neither side knows.
    """
    if guest_reports is False or vmm_takes is False:
        return False
    return True if guest_reports or vmm_takes else None
