"""The deep report: its decisions, and that the order is always restored."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant
from agent_killed_at_line import killed_at_line
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent.errors import AgentError
from giveback_agent.policy import report_hold
from giveback_agent.policy.report_hold import Hold
from giveback_agent.release import report_order
from giveback_kernel.errors import KernelFileError
from giveback_kernel.page_reporting import ORDER_PATH, read_order

MIB = 1 << 20
COUNTS = st.none() | st.integers(0, 3)


def test_a_lowered_order_is_held_while_the_kernel_reports() -> None:
    hold = Hold.begin(100.0, 7)
    assert hold.poll(110.0, 8) == Hold(100.0, 8, 110.0)
    assert Hold(100.0, 8, 110.0).poll(114.0, 8) == Hold(100.0, 8, 110.0)
    # The first report comes 2 s after the trigger: silence before it means nothing.
    assert hold.poll(102.0, 7) == hold


def test_it_is_over_when_the_kernel_has_no_more_or_has_had_its_time() -> None:
    assert Hold(100.0, 8, 110.0).poll(115.0, 8) is None
    assert Hold.begin(100.0, None).poll(137.0, None) is not None
    assert Hold.begin(100.0, None).poll(138.0, None) is None
    # A guest that frees memory all the time causes reports all the time.
    assert Hold(100.0, 8, 210.0).poll(219.0, 9) is not None
    assert Hold(100.0, 8, 219.0).poll(220.0, 9) is None


@given(st.lists(st.tuples(st.floats(0.1, 10.0), COUNTS), min_size=1, max_size=60), COUNTS)
def test_a_hold_ends_once_its_time_is_over_and_nothing_new_is_reported(
    polls: list[tuple[float, int | None]], first: int | None
) -> None:
    now_s, hold = 0.0, Hold.begin(0.0, first)
    for step_s, reports in polls:
        now_s += step_s
        before = hold
        after = hold.poll(now_s, reports)
        if after is None:
            assert now_s >= min(report_hold.QUIET_S, report_hold.DRAIN_S)
            return
        new = reports is not None and reports != before.reports
        assert now_s < (report_hold.MOST_S if new else report_hold.DRAIN_S)
        assert after.since_s == 0.0
        hold = after


def test_after_the_kernels_time_every_poll_counts() -> None:
    hold = Hold.begin(100.0, 0)
    assert hold.may_wait(120.0, 119.0)
    assert not hold.may_wait(120.0, 118.0)
    assert not hold.may_wait(138.5, 138.0)


def guest(tmp_path: Path, order: bytes = b"9\n") -> str:
    return plant(tmp_path, {**GUEST, ORDER_PATH: order})


def state_of(root: str) -> Path:
    return Path(root + report_order.STATE_PATH)


def test_lower_step_by_step_and_restore(tmp_path: Path) -> None:
    root = guest(tmp_path)
    assert report_order.lower(root, 5) == 9
    assert report_order.lower(root, 0) == 9
    assert (read_order(root), state_of(root).read_text()) == (0, "9\n")
    assert report_order.restore(root) == 9
    assert read_order(root) == 9
    assert not state_of(root).exists()
    assert report_order.restore(root) is None


def test_the_original_is_not_forgotten_by_a_second_agent(tmp_path: Path) -> None:
    root = guest(tmp_path)
    report_order.lower(root, 3)
    assert report_order.lower(root, 1) == 9
    assert report_order.repair(root).order == 9


def test_an_order_that_another_process_has_raised_is_left_alone(tmp_path: Path) -> None:
    root = guest(tmp_path)
    report_order.lower(root, 3)
    Path(root + ORDER_PATH).write_text("10\n")
    assert report_order.restore(root) is None
    assert read_order(root) == 10
    assert not state_of(root).exists()


@pytest.mark.parametrize("order", [b"-1\n", b"4294967295\n", b"31\n", b"soon\n", b""])
def test_what_is_no_order_is_not_lowered(tmp_path: Path, order: bytes) -> None:
    root = guest(tmp_path, order)
    with pytest.raises(KernelFileError):
        report_order.lower(root, 0)
    assert Path(root + ORDER_PATH).read_bytes() == order
    assert not state_of(root).exists()


def test_a_kernel_without_the_parameter(tmp_path: Path) -> None:
    root = plant(tmp_path, {})
    with pytest.raises(KernelFileError, match="the report order is fixed"):
        report_order.lower(root, 0)
    assert report_order.repair(root) == report_order.Repaired(False)


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=200)
def test_an_invalid_record_never_becomes_the_order(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = guest(Path(folder), b"0\n")
        state_of(root).parent.mkdir(parents=True)
        state_of(root).write_bytes(data)
        repaired = report_order.repair(root)
        assert repaired.found
        after = read_order(root)
        assert after is not None
        assert 0 <= after <= 10
        if not data.strip().isdigit():
            # The drivers request the page block order.
            assert after == 9
            assert repaired.why
        assert not state_of(root).exists()


def test_a_state_that_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    root = guest(tmp_path)
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(AgentError):
        report_order.lower(root, 0)
    assert read_order(root) == 9


def test_a_restore_that_fails_may_be_tried_again(tmp_path: Path) -> None:
    root = guest(tmp_path)
    report_order.lower(root, 0)
    parameter = Path(root + ORDER_PATH)
    parameter.rename(parameter.with_name("away"))
    parameter.symlink_to("/dev/full")
    with pytest.raises(KernelFileError):
        report_order.restore(root)
    assert state_of(root).exists()
    parameter.unlink()
    parameter.with_name("away").rename(parameter)
    assert report_order.restore(root) == 9


def test_a_kill_at_any_line_is_repaired(tmp_path: Path) -> None:
    root = guest(tmp_path)

    def lower_and_restore() -> None:
        report_order.lower(root, 5)
        report_order.lower(root, 0)
        report_order.restore(root)

    seen = set()
    for number in range(1, 2000):
        killed = killed_at_line(number, lower_and_restore)
        seen.add(read_order(root))
        report_order.repair(root)
        assert read_order(root) == 9
        assert not state_of(root).exists()
        if not killed:
            break
    else:
        pytest.fail("it never got to the end")
    assert seen == {9, 5, 0}
    assert number > 30


INTERRUPTS = b"""\
           CPU0       CPU1
 11:         24          6   IO-APIC  11-fasteoi   virtio2
 29:         27          1   PCI-MSI 81921-edge      virtio3-virtqueues
 30:          5          5   PCI-MSI 81921-edge      virtio4-inflate
 31:          7          0   PCI-MSI 81921-edge      virtio4-reporting_vq
ERR:          0
"""


@pytest.mark.parametrize(
    ("names", "count"),
    [([b"virtio2"], 30), ([b"virtio3"], 28), ([b"virtio4"], 7), ([b"virtio"], None), ([], None)],
)
def test_reports_are_counted_by_the_balloons_interrupts(
    names: list[bytes], count: int | None
) -> None:
    assert report_order.parse_reports(INTERRUPTS, names) == count


@given(st.binary())
def test_any_interrupts_file_can_be_read(data: bytes) -> None:
    report_order.parse_reports(data, [b"virtio2"])


def test_a_guest_without_a_balloon_counts_no_reports(tmp_path: Path) -> None:
    assert report_order.read_reports(plant(tmp_path, {"/proc/interrupts": INTERRUPTS})) is None
