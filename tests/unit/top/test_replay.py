"""The replay: it stays within the history, in order whatever the clock did, and shows what was known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback.manager.history.records import HistoryFrame, HistoryHost, HistorySample, HistoryVm
from giveback.manager.model import RecordedAction
from giveback.reporters.tables.columns import width_of
from giveback.top.model import VmParts
from giveback.top.replay import Scrub, scrubber, snapshot_at

MIB = 1 << 20
MOMENTS = st.lists(st.integers(0, 2_000_000_000), max_size=40)


@given(MOMENTS, st.lists(st.integers(-50, 50), max_size=10), st.integers(20, 200))
def test_scrubbing_stays_within_and_in_order(
    moments: list[int], steps: list[int], width: int
) -> None:
    scrub = Scrub.over(moments)
    assert list(scrub.moments) == sorted(set(moments))
    assert scrub.wall_s == (max(moments) if moments else None)
    for step in steps:
        scrub = scrub.moved(step)
        assert (scrub.wall_s is None) == (not moments)
        assert 0 <= scrub.at < max(1, len(scrub.moments))
        assert width_of(scrubber(scrub, width)) <= width


def test_a_time_leads_to_the_moment_before_it() -> None:
    scrub = Scrub.over((30, 10, 20, 20))
    assert scrub.moments == (10, 20, 30)
    assert [scrub.moved_to(at).wall_s for at in (0, 10, 25, 99)] == [10, 10, 20, 30]


def _frame(*samples: HistorySample, actions: tuple[RecordedAction, ...] = ()) -> HistoryFrame:
    vms = tuple(HistoryVm(one.key, "we\x1bb", "qemu", 0, 9) for one in samples)
    return HistoryFrame(100, 10, HistoryHost(100, 1, 16 << 30, 4 << 30), samples, vms, actions)


def test_a_frame_has_what_was_known_then() -> None:
    sample = HistorySample(
        "qemu:web:7", 100, ram_bytes=900 * MIB, resident_bytes=500 * MIB, needed_bytes=400 * MIB,
        residue_bytes=100 * MIB, cache_bytes=50 * MIB, in_use_bytes=350 * MIB,
        returned_bytes=200 * MIB, condition="ok", urgency=2,
    )  # fmt: skip
    actions = tuple(
        RecordedAction(at, at, "qemu:web:7", "ask", 2, at * MIB, "short", 90 * MIB)
        for at in (95, 300, 90)
    )
    shown = snapshot_at(_frame(sample, actions=actions))
    (vm,) = shown.vms
    assert (vm.name, vm.pid) == ("we\\x1bb", 7)
    assert vm.parts == VmParts(350 * MIB, 50 * MIB, 100 * MIB, 200 * MIB)
    assert vm.verdict == "asked 95 MiB, got 90"
    assert shown.host is not None
    assert shown.host.available_bytes == 4 << 30


def test_rows_of_an_older_daemon_have_parts_too() -> None:
    old = HistorySample(
        "qemu:web:7", 100, needed_bytes=400, cache_bytes=100, residue_bytes=50, ram_bytes=900
    )
    (vm,) = snapshot_at(_frame(old)).vms
    assert vm.parts == VmParts(300, 100, 50, 0)
    (bare,) = snapshot_at(_frame(HistorySample("odd key", 100))).vms
    assert (bare.parts, bare.pid) == (None, 0)
