"""Whether free pages are reported, and from which order: one answer for ps, doctor and the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.accounting.ledger import Key
from giveback.accounting.reporting import (
    Reporting,
    is_reported,
    reporting_of,
    vmm_takes_reports,
)
from giveback.accounting.usage import GuestSnapshot, GuestSource, HostSnapshot, from_kernel_files
from giveback.guest.observe import make_ledger
from giveback.vmm.base import Answer, Capabilities, VmDescription, VmState
from giveback_kernel.page_reporting import UNSET

MIB = 1 << 20
NAMES = (
    "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive",
    "Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "SwapTotal",
    "SwapFree", "Dirty", "Writeback", "AnonPages", "Mapped", "Shmem", "Slab", "SReclaimable",
    "SUnreclaim", "KernelStack", "PageTables",
)  # fmt: skip
MEMINFO = "".join(f"{name}: {8192 if name == 'MemTotal' else 0} kB\n" for name in NAMES).encode()
BUDDYINFO = b"Node 0, zone Normal" + b" 1" * 11 + b"\n"
ANSWERS = st.sampled_from(list(Answer))
SAID = st.sampled_from([None, True, False])


def order(
    parameter: int | None, *, huge_kib: int | None = 2048, buddy: bytes = BUDDYINFO
) -> int | None:
    text = MEMINFO + (b"" if huge_kib is None else b"Hugepagesize: %d kB\n" % huge_kib)
    guest = from_kernel_files(text, buddy, GuestSource.AGENT, report_order=parameter)
    assert guest.problems == ()
    return guest.report_order


@pytest.mark.parametrize("parameter", [0, 5, 9])
def test_the_parameter_is_the_order(parameter: int) -> None:
    assert order(parameter) == parameter
    assert order(parameter, buddy=b"") == parameter


@pytest.mark.parametrize("parameter", [None, UNSET])
def test_an_unset_order_is_the_page_block_order_else_the_largest(parameter: int | None) -> None:
    assert order(parameter) == 9
    assert order(parameter, huge_kib=1024) == 8
    assert order(parameter, huge_kib=None) == 10
    # default_hugepagesz=1G, and 64K on arm64: no page block is made of these.
    assert order(parameter, huge_kib=1 << 20) == 9
    assert order(parameter, huge_kib=64) == 9
    assert order(parameter, buddy=b"") is None


@given(ANSWERS, ANSWERS, ANSWERS, SAID)
def test_the_ledger_and_the_column_agree(
    balloon: Answer, offered: Answer, negotiated: Answer, said: bool | None
) -> None:
    vm = VmDescription("qemu", "one", 1, 64 * MIB, (), Capabilities(offered, balloon))
    state = VmState(reporting_negotiated=negotiated)
    guest = GuestSnapshot(
        GuestSource.AGENT,
        0.0,
        64 * MIB,
        32 * MIB,
        reporting=said,
        report_order=1,
        free_by_order=(0, 32 * MIB),
    )
    word = reporting_of(vm, state, guest)
    ledger = make_ledger(vm, state, HostSnapshot(64 * MIB), guest)
    flows = is_reported(said, vmm_takes_reports(vm, state))
    assert (
        ledger.host(
            {None: Key.FREE_UNSPLIT, True: Key.FREE_WAITING, False: Key.FREE_UNREPORTED}[flows]
        )
        == 32 * MIB
    )
    if word is Reporting.ON:
        assert flows
    if word in (Reporting.OFF, Reporting.NOT_TAKEN):
        assert flows is False
    if word in (Reporting.OFFERED, Reporting.UNKNOWN):
        assert flows is None
