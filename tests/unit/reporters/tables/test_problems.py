"""Problems as lines: other users' VMs share one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import NOT_OPENED, NOT_READABLE
from giveback.reporters.tables.problems import lines_of


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=8), st.text(max_size=20))))
def test_without_refusals_each_problem_has_its_line(listed: list[tuple[str, str, str]]) -> None:
    known = [one for one in listed if not one[2].endswith(NOT_READABLE)]
    assert lines_of(known) == [f"{name}: {problem}" for _, name, problem in known]


def test_other_users_vms_are_one_line_and_ones_own_problems_stay() -> None:
    refused = [
        (f"qemu:{at}", f"vm{at}", problem)
        for at in range(7)
        for problem in (f"/proc/{at}/smaps: {NOT_READABLE}", f"/q{at}: {NOT_OPENED}")
    ]
    own = [("qemu:9", "mine", f"/q9: {NOT_OPENED}"), ("qemu:0", "vm0", "has a problem")]
    first, *rest = lines_of([*refused, *own])
    assert first.startswith("7 VMs are other users', so their memory is not known (vm0, vm1, vm2, ")
    assert first.endswith("vm4 and 2 more): run as root")
    assert rest == [f"mine: /q9: {NOT_OPENED}", "vm0: has a problem"]
    (one,) = lines_of(refused[:2])
    assert one.startswith("1 VM is another user's, so its memory is not known (vm0)")
