"""Deep report: what is decided, and that the order comes back whatever happens."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from agent_kernel_samples import GUEST, plant
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent import deep_report
from giveback_agent.deep_report import HOLD, LOWER, RESTORE, STOP, Look, next_order
from giveback_agent.errors import AgentError, KernelFileError
from giveback_agent.kernel.page_reporting import ORDER_PATH, read_order

MIB = 1 << 20
TRAPPED = (15 * MIB, 26 * MIB, 49 * MIB, 109 * MIB, 178 * MIB, 227 * MIB, 147 * MIB, 116 * MIB, 0)
ORDERS = st.integers(0, 10)
LOOKS = st.builds(
    Look,
    ORDERS,
    ORDERS,
    ORDERS,
    st.lists(st.integers(0, 1 << 40), max_size=14).map(tuple),
    st.booleans(),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
    st.none() | st.integers(-(1 << 40), 1 << 40),
)


def look(current: int = 9, idle: bool = True, **more: object) -> Look:
    fields: dict[str, Any] = {"lowest": 0, "trapped_by_order_bytes": TRAPPED, **more}
    return Look(current=current, original=9, idle=idle, **fields)


def test_trapped_memory_is_reported_in_one_step_to_the_lowest_order_that_has_blocks() -> None:
    assert (next_order(look()).kind, next_order(look()).order) == (LOWER, 0)
    assert next_order(look(lowest=3)).order == 3
    assert next_order(look(trapped_by_order_bytes=(0, 0, *TRAPPED[2:]))).order == 2


def test_little_trapped_memory_is_left_alone() -> None:
    assert next_order(look(trapped_by_order_bytes=(MIB,) * 7)).kind == STOP
    assert next_order(look(lowest=9)).kind == STOP


def test_a_lowered_order_is_held_while_the_kernel_reports() -> None:
    assert next_order(look(0, held_s=10)).kind == HOLD
    assert next_order(look(0, held_s=10, quiet_s=1)).kind == HOLD
    # The first report comes 2 s after the nudge: silence before it means nothing.
    assert next_order(look(0, held_s=2, quiet_s=60)).kind == HOLD


@pytest.mark.parametrize("how", [{"held_s": 38.0}, {"held_s": 12.0, "quiet_s": 5.0}])
def test_it_is_restored_when_the_kernel_has_no_more(how: dict[str, Any]) -> None:
    step = next_order(look(0, **how))
    assert (step.kind, step.order) == (RESTORE, 9)


def test_it_is_restored_at_once_when_work_is_back() -> None:
    assert next_order(look(0, idle=False)).kind == RESTORE
    assert next_order(look(9, idle=False)).kind == STOP


def test_a_step_that_gained_nothing_is_the_last() -> None:
    assert next_order(look(4, held_s=40, last_gain_bytes=50 * MIB)).kind == LOWER
    assert next_order(look(4, held_s=40, last_gain_bytes=0)).kind == RESTORE


@given(LOOKS)
def test_a_step_never_raises_the_order_but_to_the_original(now: Look) -> None:
    step = next_order(now)
    if step.kind == LOWER:
        assert max(0, now.lowest) <= step.order < now.current
        assert now.idle
    elif step.kind == RESTORE:
        assert step.order == now.original > now.current
    else:
        assert step.order == now.current
    assert (step.kind in (HOLD, RESTORE)) <= (now.current < now.original)


@given(st.integers(1, 10), ORDERS, LOOKS)
def test_left_alone_it_always_ends_restored(original: int, lowest: int, seed: Look) -> None:
    current = original
    for _ in range(3 * original + 3):
        step = next_order(
            Look(current, original, lowest, seed.trapped_by_order_bytes, True, deep_report.DRAIN_S)
        )
        current = step.order
        if step.kind in (RESTORE, STOP):
            break
    assert current == original


def guest(tmp_path: Path, order: bytes = b"9\n") -> str:
    return plant(tmp_path, {**GUEST, ORDER_PATH: order})


def state_of(root: str) -> Path:
    return Path(root + deep_report.STATE_PATH)


def test_lower_step_by_step_and_restore(tmp_path: Path) -> None:
    root = guest(tmp_path)
    assert deep_report.lower(root, 5) == 9
    assert deep_report.lower(root, 0) == 9
    assert (read_order(root), state_of(root).read_text()) == (0, "9\n")
    assert deep_report.restore(root) == 9
    assert read_order(root) == 9
    assert not state_of(root).exists()
    assert deep_report.restore(root) is None


def test_the_original_is_not_forgotten_by_a_second_agent(tmp_path: Path) -> None:
    root = guest(tmp_path)
    deep_report.lower(root, 3)
    assert deep_report.lower(root, 1) == 9
    assert deep_report.repair(root).order == 9


def test_an_order_that_another_hand_has_raised_is_left_alone(tmp_path: Path) -> None:
    root = guest(tmp_path)
    deep_report.lower(root, 3)
    Path(root + ORDER_PATH).write_text("10\n")
    assert deep_report.restore(root) is None
    assert read_order(root) == 10
    assert not state_of(root).exists()


@pytest.mark.parametrize("order", [b"-1\n", b"4294967295\n", b"31\n", b"soon\n", b""])
def test_what_is_no_order_is_not_lowered(tmp_path: Path, order: bytes) -> None:
    root = guest(tmp_path, order)
    with pytest.raises(KernelFileError):
        deep_report.lower(root, 0)
    assert Path(root + ORDER_PATH).read_bytes() == order
    assert not state_of(root).exists()


def test_a_kernel_without_the_parameter(tmp_path: Path) -> None:
    root = plant(tmp_path, {})
    with pytest.raises(KernelFileError, match="the report order is fixed"):
        deep_report.lower(root, 0)
    assert deep_report.repair(root) == deep_report.Repaired(False)


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=200)
def test_nonsense_in_the_state_never_becomes_the_order(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = guest(Path(folder), b"0\n")
        state_of(root).parent.mkdir(parents=True)
        state_of(root).write_bytes(data)
        repaired = deep_report.repair(root)
        assert repaired.found
        after = read_order(root)
        assert after is not None
        assert 0 <= after <= 10
        if not data.strip().isdigit():
            # The page block's order is what the drivers ask for.
            assert after == 9
            assert repaired.why
        assert not state_of(root).exists()


def test_a_state_that_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    root = guest(tmp_path)
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(AgentError):
        deep_report.lower(root, 0)
    assert read_order(root) == 9


def test_a_restore_that_fails_may_be_tried_again(tmp_path: Path) -> None:
    root = guest(tmp_path)
    deep_report.lower(root, 0)
    parameter = Path(root + ORDER_PATH)
    parameter.rename(parameter.with_name("away"))
    parameter.symlink_to("/dev/full")
    with pytest.raises(KernelFileError):
        deep_report.restore(root)
    assert state_of(root).exists()
    parameter.unlink()
    parameter.with_name("away").rename(parameter)
    assert deep_report.restore(root) == 9


# Where anything is written; the parsers only read.
WRITERS = ("deep_report.py", "files.py", "page_reporting.py", "runtime.py")


def killed_at_line(root: str, number: int) -> bool:
    """Lower and restore in a child that is killed at its `number`-th line; False where it got to the end."""
    pid = os.fork()
    if pid == 0:
        left = number

        def trace(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ANN401  # the interpreter's own type
            nonlocal left
            del argument
            if frame.f_code.co_filename.rpartition("/")[2] not in WRITERS:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            deep_report.lower(root, 5)
            deep_report.lower(root, 0)
            deep_report.restore(root)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_a_kill_at_any_line_is_repaired(tmp_path: Path) -> None:
    root = guest(tmp_path)
    seen = set()
    for number in range(1, 2000):
        killed = killed_at_line(root, number)
        seen.add(read_order(root))
        deep_report.repair(root)
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
    assert deep_report.parse_reports(INTERRUPTS, names) == count


@given(st.binary())
def test_any_interrupts_file_can_be_read(data: bytes) -> None:
    deep_report.parse_reports(data, [b"virtio2"])


def test_a_guest_without_a_balloon_counts_no_reports(tmp_path: Path) -> None:
    assert deep_report.read_reports(plant(tmp_path, {"/proc/interrupts": INTERRUPTS})) is None
