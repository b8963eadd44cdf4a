"""The ledger adds up to the byte, whatever numbers either side sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.accounting.ledger import NEEDED, RESIDUE, Basis, Key, UnknownKind, join
from giveback.accounting.usage import (
    NO_GUEST,
    GuestSnapshot,
    GuestSource,
    HostSnapshot,
    checked,
    from_balloon,
    from_kernel_files,
)
from giveback.vmm.base import BalloonStatistics

MIB, GIB = 1 << 20, 1 << 30
AMOUNT = st.integers(min_value=0, max_value=1 << 50)
MAYBE = st.none() | AMOUNT

HOSTS = st.builds(
    HostSnapshot,
    **dict.fromkeys(
        [
            "ram_resident_bytes",
            "ram_swap_bytes",
            "ram_pss_bytes",
            "own_resident_bytes",
            "own_pss_bytes",
            "own_swap_bytes",
            "page_tables_bytes",
            "peak_resident_bytes",
        ],
        AMOUNT,
    ),
    sure=st.booleans(),
    placed=st.booleans(),
)
GUESTS = st.builds(
    GuestSnapshot,
    source=st.sampled_from(GuestSource),
    age_s=st.none() | st.floats(0, 200),
    free_by_order=st.lists(AMOUNT, max_size=11).map(tuple),
    report_order=st.none() | st.integers(0, 12),
    reporting=st.none() | st.booleans(),
    **dict.fromkeys(
        [
            "total_bytes",
            "free_bytes",
            "anon_bytes",
            "shmem_bytes",
            "cache_bytes",
            "dirty_bytes",
            "slab_reclaimable_bytes",
            "slab_unreclaimable_bytes",
            "kernel_bytes",
            "pcp_bytes",
            "compressed_swap_bytes",
            "hugetlb_bytes",
        ],
        MAYBE,
    ),
)


@given(HOSTS, GUESTS, AMOUNT, AMOUNT, st.booleans(), st.none() | st.booleans(), st.booleans())
def test_rows_sum_exactly_for_any_numbers(
    host: HostSnapshot,
    guest: GuestSnapshot,
    ram_bytes: int,
    balloon_bytes: int,
    balloon_in_total: bool,
    reporting: bool | None,
    kept: bool,
) -> None:
    ledger = join(
        host,
        guest,
        ram_bytes,
        balloon_bytes=balloon_bytes,
        balloon_in_total=balloon_in_total,
        reporting=reporting,
        kept=kept,
    )
    assert sum(row.ram_bytes for row in ledger.rows) == ram_bytes
    assert sum(row.host_bytes for row in ledger.rows) == host.charged_bytes == ledger.charged_bytes
    if ledger.residue_bytes is not None:
        assert ledger.needed_bytes is not None
        assert ledger.in_use_bytes is not None
        assert ledger.cache_bytes is not None
        assert ledger.needed_bytes + ledger.residue_bytes == host.ram_resident_bytes
        assert ledger.in_use_bytes + ledger.cache_bytes == ledger.needed_bytes
        assert min(ledger.residue_bytes, ledger.in_use_bytes, ledger.cache_bytes) >= 0
        assert host.ram_resident_bytes <= ram_bytes
    else:
        assert ledger.unknown is not None
        assert ledger.unknown.why
        assert not any(row.host_bytes for row in ledger.rows if row.key in NEEDED | RESIDUE)
    assert all(0 <= row.ram_bytes <= ram_bytes for row in ledger.rows)
    assert all(row.host_bytes >= 0 for row in ledger.rows)


def a_guest(**changes: object) -> GuestSnapshot:
    base: dict[str, object] = {
        "source": GuestSource.AGENT,
        "age_s": 0.0,
        "total_bytes": 1900 * MIB,
        "free_bytes": 1200 * MIB,
        "anon_bytes": 300 * MIB,
        "shmem_bytes": 10 * MIB,
        "cache_bytes": 250 * MIB,
        "dirty_bytes": 20 * MIB,
        "slab_reclaimable_bytes": 40 * MIB,
        "slab_unreclaimable_bytes": 30 * MIB,
        "kernel_bytes": 20 * MIB,
        "free_by_order": tuple([20 * MIB] * 9 + [20 * MIB, 1000 * MIB]),
        "report_order": 9,
        "reporting": True,
    }
    return GuestSnapshot(**(base | changes))  # type: ignore[arg-type]


def test_the_rows_of_a_usual_vm() -> None:
    host = HostSnapshot(1148 * MIB, peak_resident_bytes=1748 * MIB, own_resident_bytes=100 * MIB)
    ledger = join(host, a_guest(), 2 * GIB)
    rows = {row.key: (row.ram_bytes // MIB, row.host_bytes // MIB) for row in ledger.rows}
    assert rows[Key.CACHE_CLEAN] == (230, 230)
    assert rows[Key.RESERVED] == (148, 148)
    assert rows[Key.UNATTRIBUTED] == (50, 50)
    assert rows[Key.FREE_TRAPPED] == (180, 180)
    assert rows[Key.FREE_WAITING] == (120, 120)
    assert rows[Key.FREE_RETURNED] == (500, 0)
    assert rows[Key.FREE_UNTOUCHED] == (400, 0)
    assert ledger.residue_bytes == 300 * MIB
    assert ledger.needed_bytes == 848 * MIB


@pytest.mark.parametrize(
    ("reporting", "key"), [(False, Key.FREE_UNREPORTED), (None, Key.FREE_UNSPLIT)]
)
def test_without_reporting_no_memory_waits_to_be_reported(reporting: bool | None, key: Key) -> None:
    ledger = join(HostSnapshot(1148 * MIB), a_guest(reporting=reporting), 2 * GIB)
    assert ledger.host(*RESIDUE) == ledger.host(key) == 300 * MIB


@pytest.mark.parametrize("said", [None, True])
def test_a_guest_cannot_report_to_a_vmm_that_accepts_no_reports(said: bool | None) -> None:
    guest = a_guest(reporting=said)
    ledger = join(HostSnapshot(1148 * MIB), guest, 2 * GIB, reporting=False)
    assert ledger.host(Key.FREE_UNREPORTED) == 300 * MIB


def test_memory_that_the_vmm_does_not_discard_does_not_wait_to_be_reported() -> None:
    ledger = join(HostSnapshot(1148 * MIB), a_guest(), 2 * GIB, reporting=True, kept=True)
    assert ledger.host(*RESIDUE) == ledger.host(Key.FREE_KEPT) == 300 * MIB


def test_memory_in_the_hosts_swap_does_not_count_as_returned() -> None:
    host = HostSnapshot(1148 * MIB, ram_swap_bytes=350 * MIB, peak_resident_bytes=1748 * MIB)
    assert join(host, a_guest(), 2 * GIB).ram(Key.FREE_RETURNED) == 250 * MIB


def test_ram_that_is_not_found_is_not_counted_as_the_vmms_own() -> None:
    host = HostSnapshot(
        8 * MIB, own_resident_bytes=700 * MIB, own_swap_bytes=MIB, page_tables_bytes=MIB,
        placed=False,
    )  # fmt: skip
    ledger = join(host, a_guest(), 2 * GIB, balloon_bytes=GIB)
    assert (ledger.residue_bytes, ledger.needed_bytes) == (None, None)
    assert {row.key: row.host_bytes for row in ledger.rows} == {
        Key.UNPLACED: 709 * MIB,
        Key.BALLOON: 0,
        Key.PAGE_TABLES: MIB,
    }
    assert ledger.ram(Key.UNPLACED) == GIB


def test_a_guest_that_counts_more_than_its_ram_contradicts() -> None:
    ledger = join(HostSnapshot(GIB), a_guest(), GIB)
    assert any("counts 876 MiB more than the VM has RAM" in note for note in ledger.notes)
    assert join(HostSnapshot(GIB), a_guest(), 2 * GIB).notes == ()


def test_used_memory_that_is_not_resident_is_a_row_of_ram_alone() -> None:
    ledger = join(HostSnapshot(500 * MIB, ram_swap_bytes=348 * MIB), a_guest(), 2 * GIB)
    assert ledger.ram(Key.NOT_RESIDENT) == 348 * MIB
    assert ledger.host(Key.NOT_RESIDENT) == 0
    # Reduced in this order: the kernel's reserve, memory in no counter, kernel memory, clean cache.
    assert [ledger.host(key) // MIB for key in (Key.RESERVED, Key.KERNEL)] == [0, 0]
    assert ledger.host(Key.CACHE_CLEAN) == 100 * MIB
    assert ledger.host(Key.ANON) == 300 * MIB
    assert ledger.host(Key.RAM_SWAPPED) == 348 * MIB
    assert ledger.residue_bytes == 0


def test_a_guest_that_counts_memory_twice_is_not_joined() -> None:
    ledger = join(HostSnapshot(GIB), a_guest(anon_bytes=5 * GIB), 2 * GIB)
    assert ledger.unknown is not None
    assert ledger.unknown.kind is UnknownKind.CONTRADICTION
    assert "of its memory twice" in ledger.unknown.why
    assert (ledger.residue_bytes, ledger.in_use_bytes, ledger.cache_bytes) == (None, None, None)
    # Counters that overlap a little are reduced to the guest's total.
    little = join(HostSnapshot(GIB), a_guest(anon_bytes=390 * MIB), 2 * GIB)
    assert little.unknown is None
    assert little.ram(Key.UNATTRIBUTED) == 0


def test_balloon_statistics_of_another_vm_are_not_joined() -> None:
    """Case 12 of the field: statistics of 8 GiB on a VM of 256 MiB."""
    stats = BalloonStatistics(1000.0, 8 * GIB, 4 * GIB, None, GIB)
    ledger = join(HostSnapshot(200 * MIB), from_balloon(stats, 1001.0), 256 * MIB)
    assert ledger.unknown is not None
    assert "counts 7.8 GiB more than the VM has RAM" in ledger.unknown.why
    assert ledger.host(Key.GUEST_SILENT) == 200 * MIB


@pytest.mark.parametrize(
    ("age_s", "moved", "is_known"),
    [
        (0.5, None, True), (9.0, None, True), (30.0, None, False), (None, None, True),
        (30.0, 0, True), (30.0, 127 * MIB, True), (30.0, 129 * MIB, False), (61.0, 0, False),
        (1.0, 129 * MIB, False), (None, 129 * MIB, False),
    ],
)  # fmt: skip
def test_numbers_from_before_the_last_large_change_are_not_joined(
    age_s: float | None, moved: int | None, is_known: bool
) -> None:
    guest = a_guest(age_s=age_s, moved_bytes=moved)
    ledger = join(HostSnapshot(1148 * MIB), guest, 2 * GIB)
    assert (ledger.residue_bytes is not None) == is_known
    assert (ledger.unknown is None) == is_known
    if ledger.unknown is not None:
        assert ledger.unknown.kind is UnknownKind.OLD
        assert any(ledger.unknown.why in note for note in ledger.notes)


def test_resident_memory_beyond_the_size_of_ram_is_not_counted_as_ram() -> None:
    ledger = join(HostSnapshot(3 * GIB), a_guest(), 2 * GIB)
    assert ledger.unknown is not None
    assert ledger.unknown.kind is UnknownKind.UNPLACED
    assert ledger.residue_bytes is None


def test_ballooned_pages_in_and_out_of_the_total() -> None:
    balloon = 500 * MIB
    outside = join(
        HostSnapshot(900 * MIB), a_guest(total_bytes=1400 * MIB, free_bytes=700 * MIB), 2 * GIB,
        balloon_bytes=balloon,
    )  # fmt: skip
    inside = join(
        HostSnapshot(900 * MIB), a_guest(free_bytes=700 * MIB), 2 * GIB,
        balloon_bytes=balloon, balloon_in_total=True,
    )  # fmt: skip
    assert outside.ram(Key.RESERVED) == inside.ram(Key.RESERVED) == 148 * MIB
    assert outside.ram(*NEEDED) == inside.ram(*NEEDED)


def test_without_a_guest_the_ledger_has_the_hosts_side() -> None:
    for guest in (NO_GUEST, a_guest(age_s=61.0)):
        ledger = join(HostSnapshot(GIB), guest, 2 * GIB)
        assert ledger.residue_bytes is None
        assert ledger.needed_bytes is None
        assert ledger.host(Key.GUEST_SILENT) == GIB
        assert ledger.ram(Key.ABSENT) == GIB


def test_balloon_statistics_give_the_residue_without_names() -> None:
    stats = BalloonStatistics(1000.0, 1900 * MIB, 1200 * MIB, None, 250 * MIB)
    ledger = join(HostSnapshot(1148 * MIB), from_balloon(stats, 1003.0), 2 * GIB)
    assert ledger.host(Key.USED) == 450 * MIB
    assert ledger.residue_bytes == 300 * MIB
    assert {row.basis for row in ledger.rows if row.key in NEEDED} == {Basis.GUEST}


def test_balloon_statistics_that_were_never_sent() -> None:
    guest = from_balloon(BalloonStatistics(0.0), 1000.0)
    assert guest.total_bytes is None
    assert "never" in guest.problems[0]


@pytest.mark.parametrize(
    "lie",
    [{"free_bytes": 3 << 40, "total_bytes": 1}, {"anon_bytes": -1}, {"cache_bytes": 1 << 60},
     {"free_by_order": (1, -5)}, {"report_order": -1}, {"report_order": 99},
     {"total_bytes": 0, "free_bytes": 0}],
)  # fmt: skip
def test_lies_are_refused_with_their_number(lie: dict[str, object]) -> None:
    guest = checked(a_guest(**lie))
    assert guest.total_bytes is None
    assert "not believed" in guest.problems[0]


def test_more_available_than_there_is_is_not_known_and_the_rest_is() -> None:
    stats = BalloonStatistics(1000.0, 1900 * MIB, 1200 * MIB, 8 * GIB, 250 * MIB)
    guest = from_balloon(stats, 1003.0)
    assert guest.available_bytes is None
    assert "available 8589934592 of total" in guest.problems[0]
    assert join(HostSnapshot(1148 * MIB), guest, 2 * GIB).residue_bytes == 300 * MIB


@given(st.binary(max_size=300), st.none() | st.binary(max_size=300))
def test_any_bytes_make_a_snapshot(meminfo: bytes, buddyinfo: bytes | None) -> None:
    guest = from_kernel_files(meminfo, buddyinfo, GuestSource.GUEST_AGENT)
    ledger = join(HostSnapshot(GIB), guest, 2 * GIB)
    assert sum(row.ram_bytes for row in ledger.rows) == 2 * GIB


def test_a_leaking_counter_of_the_guest_is_estimated_and_noted() -> None:
    # oracle/oracle-linux#218
    names = "Active(anon) Inactive(anon) Active(file) SwapTotal SwapFree Dirty Writeback Mapped"
    kib = dict.fromkeys([*names.split(), "Buffers", "Shmem", "SReclaimable", "SUnreclaim"], 0)
    kib |= {"MemTotal": 32_500_000, "MemFree": 700_000, "MemAvailable": 39_800_000}
    kib |= {"Inactive(file)": 39_500_000, "Cached": 6_000_000, "AnonPages": 24_000_000, "Slab": 0}
    text = "".join(f"{name}: {value} kB\n" for name, value in kib.items()).encode()
    guest = from_kernel_files(text, None, GuestSource.AGENT)
    assert guest.cold_cache_bytes == 6_000_000 << 10
    assert guest.available_bytes == (700_000 + 3_000_000) << 10
    assert [problem.partition(" of ")[0] for problem in guest.problems] == [
        "the guest's Inactive(file)",
        "the guest's MemAvailable",
    ]


def test_this_machines_own_files_make_a_snapshot() -> None:
    with open("/proc/meminfo", "rb") as memory, open("/proc/buddyinfo", "rb") as buddy:  # noqa: PTH123
        guest = from_kernel_files(memory.read(), buddy.read(), GuestSource.FILE)
    assert guest.problems == ()
    assert guest.trapped_bytes is not None
    assert guest.reportable_bytes is not None
    assert guest.anon_bytes
