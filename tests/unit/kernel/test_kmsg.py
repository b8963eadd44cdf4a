"""The kernel log: one line said, and lines found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import kmsg
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from pathlib import Path


@settings(deadline=None)
@given(st.text(), st.integers(-5, 20))
def test_a_line_is_one_bounded_printable_line(message: str, priority: int) -> None:
    written = kmsg.line(message, priority)
    assert len(written) <= kmsg.LINE_LIMIT_BYTES
    assert written[:1] == b"<"
    assert written[1:2] in b"01234567"
    assert written[2:3] == b">"
    assert written.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in written[:-1])


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=800))
def test_plain_text_is_said_as_it_is(message: str) -> None:
    assert kmsg.line(message) == b"<6>" + message.encode() + b"\n"


def test_a_message_cannot_forge_a_second_line() -> None:
    assert kmsg.line("giveback: a\n<0>panic\r\x1b[31m") == b"<6>giveback: a<0>panic[31m\n"


def test_a_long_line_is_cut() -> None:
    assert len(kmsg.line("x" * 5000)) == kmsg.LINE_LIMIT_BYTES
    assert len(kmsg.line("\U0001f409" * 5000)) == kmsg.LINE_LIMIT_BYTES


def test_lines_are_appended(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/dev/kmsg": b""})
    assert kmsg.write_line(root, "giveback: performing memory compaction")
    assert kmsg.write_line(root, "giveback: 12 MiB", kmsg.NOTICE)
    said = (tmp_path / "dev/kmsg").read_bytes()
    assert said == b"<6>giveback: performing memory compaction\n<5>giveback: 12 MiB\n"


def test_a_log_that_takes_nothing_is_no_error(tmp_path: Path) -> None:
    assert kmsg.write_line(str(tmp_path), "unheard") is False
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kmsg").mkdir()
    assert kmsg.write_line(str(tmp_path), "unheard") is False
    assert kmsg.write_line("/dev/null", "unheard") is False


def test_a_record() -> None:
    record = kmsg.parse(b"6,312,614501,-;hv_balloon: on\n SUBSYSTEM=vmbus\n")
    assert record == kmsg.KmsgRecord(6, 312, 614501, "hv_balloon: on")
    assert kmsg.parse(b"4,1,2,c,caller=T1;a;b").message == "a;b"


@settings(deadline=None)
@given(
    st.integers(0, 191),
    st.integers(0, 1 << 62),
    st.integers(0, 1 << 62),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)),
)
def test_a_record_is_read_back(priority: int, sequence: int, at_us: int, message: str) -> None:
    data = f"{priority},{sequence},{at_us},-;{message}\n".encode()
    assert kmsg.parse(data) == kmsg.KmsgRecord(priority, sequence, at_us, message)


@pytest.mark.parametrize("data", [b"", b"6,1,2,-", b"6,1,2;x", b"-6,1,2,-;x", b"six,1,2,-;x"])
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="/dev/kmsg"):
        kmsg.parse(data)


def test_messages_are_found_in_order(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/dev/kmsg": sample("kmsg_hyperv")})
    log = kmsg.search(root, ("Free page reporting", "Cold memory"))
    assert log == kmsg.KernelLog(
        (
            "Free page reporting enabled",
            "hv_balloon: Cold memory discard hint enabled with order 9",
        ),
        True,
    )


def test_continuation_lines_are_not_messages(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/dev/kmsg": sample("kmsg_hyperv")})
    assert kmsg.search(root, ("SUBSYSTEM", "vmbus:")).messages == ()


def test_what_a_program_wrote_is_not_the_kernels_word(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/dev/kmsg": b"14,0,1,-;Free page reporting enabled\n"})
    assert kmsg.search(root, ("Free page reporting",)) == kmsg.KernelLog((), True)


def test_a_log_that_lost_its_start_is_incomplete(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/dev/kmsg": b"6,100,1,-;later\n"})
    assert kmsg.search(root, ("sooner",)) == kmsg.KernelLog((), False)


def test_a_refused_log_says_why(tmp_path: Path) -> None:
    log = kmsg.search(str(tmp_path), ("x",))
    assert log.refused == "/dev/kmsg: No such file or directory"
    assert not log.complete


def test_garbage_between_records_is_skipped(tmp_path: Path) -> None:
    data = b"\xff\xfe garbage\n6,0,1,-;found it\n" + b"x" * 100_000 + b"\n6,1,1,-;found again\n"
    log = kmsg.search(plant(tmp_path, {"/dev/kmsg": data}), ("found",))
    assert log.messages == ("found it", "found again")


def test_matches_are_bounded(tmp_path: Path) -> None:
    data = b"".join(b"6,%d,1,-;again\n" % number for number in range(5000))
    log = kmsg.search(plant(tmp_path, {"/dev/kmsg": data}), ("again",))
    assert len(log.messages) == 200


def test_this_machine() -> None:
    log = kmsg.search("/", ("Linux version",))
    assert log.refused is not None or not log.complete or len(log.messages) == 1
