"""A process that made a reader hang is not read again, costs few readers, and delays no other process."""

from __future__ import annotations

from giveback.host.readers.blame import (
    HUNG_LIMIT,
    HUNG_OF_OWNER,
    HUNG_OF_STRANGERS,
    HUNG_PER_USER,
    Blame,
    Culprit,
)

DAY_S = 86400.0
MALLORY, ALICE = 1000, 1001


def process(pid: int, uid: int = MALLORY, started_s: float = 1.0) -> Culprit:
    return Culprit(pid, started_s, uid)


def test_a_process_is_not_read_while_its_reader_hangs() -> None:
    blame = Blame()
    blame.hangs(900, process(7))
    assert blame.refusal(process(7), DAY_S) == (
        "process 7 made its reader hang: it is not read any more"
    )
    assert blame.refusal(process(8), 0.0) == ""
    assert blame.problems() == (
        "process 7 of user 1000 made its reader hang; it is not read any more",
    )


def test_a_reader_that_ended_late_counts_as_slow() -> None:
    """On a busy host even SIGKILL takes a while: a VM is not lost by that."""
    blame = Blame()
    for chance in range(3):
        now_s = 100.0 * chance
        blame.hangs(900, process(7))
        blame.hangs(901, process(7))
        blame.ended(900, now_s)
        assert "not read any more" in blame.refusal(process(7), now_s + 60.0), "the other one hangs"
        blame.ended(901, now_s)
        assert blame.hung == 0
        assert "in a while" in blame.refusal(process(7), now_s + 29.0)
        assert blame.refusal(process(7), now_s + 30.0) == "" or chance == 2
    assert "once an hour" in str(blame.problems())
    assert blame.refusal(process(7), 3700.0)
    assert blame.refusal(process(7), DAY_S) == ""
    blame.forget(7)
    blame.hangs(900, process(7))
    blame.forget(7)
    blame.ended(900, 0.0)
    assert blame.suspects == frozenset()


def test_another_process_of_that_pid_is_read() -> None:
    blame = Blame()
    blame.hangs(900, process(7))
    assert blame.refusal(process(7, ALICE, started_s=2.0), 0.0) == ""
    assert blame.problems() == ()


def test_a_slow_process_has_three_chances() -> None:
    blame = Blame()
    for now_s in (0.0, 100.0):
        blame.slow(process(7), now_s)
        assert "in a while" in blame.refusal(process(7), now_s + 29.0)
        assert blame.refusal(process(7), now_s + 30.0) == ""
        assert blame.problems() == ()
    blame.slow(process(7), 200.0)
    assert blame.refusal(process(7), 3799.0)
    assert "once an hour" in str(blame.problems())
    assert blame.refusal(process(7), DAY_S) == ""


def test_a_process_that_hung_is_not_read_again_if_it_was_also_slow() -> None:
    blame = Blame()
    blame.hangs(900, process(7))
    blame.slow(process(7), 0.0)
    assert blame.refusal(process(7), DAY_S)


def test_a_successful_read_counts_for_its_function_only_and_within_limits() -> None:
    blame = Blame()
    blame.answered(50, "command line")
    for number in range(HUNG_PER_USER):
        blame.hangs(900 + number, process(100 + number))
    assert blame.refusal(process(50), 0.0, "command line") == ""
    assert "of its user 1000" in blame.refusal(process(50), 0.0, "connect")
    for number in range(HUNG_PER_USER, HUNG_OF_OWNER):
        blame.hangs(900 + number, process(100 + number))
    assert "of its user 1000" in blame.refusal(process(50), 0.0, "command line")
    assert blame.refusal(process(8, ALICE), 0.0, "command line") == ""


def test_one_user_costs_few_readers_and_other_users_processes_are_read() -> None:
    blame = Blame()
    blame.answered(50)
    for number in range(HUNG_PER_USER):
        assert blame.refusal(process(100 + number), 0.0) == ""
        blame.hangs(900 + number, process(100 + number))
    assert "of its user 1000" in blame.refusal(process(7), 0.0)
    # A VM that was read before is still read, whatever other processes its user runs.
    assert blame.refusal(process(50), 0.0) == ""
    assert blame.refusal(process(8, ALICE), 0.0) == ""
    blame.ended(900, 0.0)
    assert blame.refusal(process(7), 0.0) == ""


def test_many_users_cost_few_readers_in_all() -> None:
    blame = Blame()
    blame.answered(50)
    for number in range(HUNG_OF_STRANGERS):
        assert blame.refusal(process(100 + number, uid=5000 + number), 0.0) == ""
        blame.hangs(900 + number, process(100 + number, uid=5000 + number))
    assert "12 readers hang" in blame.refusal(process(7, uid=9999), 0.0)
    assert blame.refusal(process(50, uid=5000), 0.0) == ""
    assert HUNG_OF_STRANGERS < HUNG_LIMIT


def test_processes_that_ended_are_forgotten() -> None:
    blame = Blame()
    blame.slow(process(7), 0.0)
    assert blame.suspects == {7}
    blame.forget(7)
    assert blame.suspects == frozenset()
