"""What the page is told of VMs: all, then changes that lead to the same."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from manager_samples import action, status, vm_status

from giveback.manager.http.answers import encoded
from giveback.manager.http.web import rows
from giveback.manager.model import DaemonStatus

VMS = st.dictionaries(st.integers(1, 9), st.integers(0, 3), max_size=6)


def made(vms: dict[int, int], done: int) -> DaemonStatus:
    found = [vm_status(f"vm{pid}", pid, resident_bytes=size) for pid, size in vms.items()]
    return replace(status(), vms=tuple(found), actions=tuple(action(n) for n in range(done)))


def rows_of(now: DaemonStatus) -> dict[str, dict[str, object]]:
    return {vm.key: rows.row(vm, now.wall_s, str) for vm in now.vms}


@given(VMS, VMS, st.integers(0, 3), st.integers(0, 3))
def test_changes_lead_from_one_moment_to_the_next(
    before: dict[int, int], after: dict[int, int], done: int, more: int
) -> None:
    old, new = made(before, done), made(after, done + more)
    told = rows.delta(old, rows_of(old), new, rows_of(new))
    known = {row["key"]: row for row in rows.whole(old, rows_of(old))["rows"]}  # type: ignore[attr-defined]
    known |= {row["key"]: row for row in told["rows"]}  # type: ignore[attr-defined]
    for key in told["gone"]:  # type: ignore[attr-defined]
        del known[key]
    assert known == rows_of(new)
    assert len(told["actions"]) == more  # type: ignore[arg-type]
    assert encoded(told)


def test_a_vm_at_rest_is_not_told_again() -> None:
    old = made({1: 1}, 0)
    later = replace(
        old, wall_s=old.wall_s + 2, vms=tuple(replace(v, sampled_age_s=9.0) for v in old.vms)
    )
    assert rows.delta(old, rows_of(old), later, rows_of(later))["rows"] == []


def test_every_row_of_the_ledger_has_its_part() -> None:
    parts = {one["row"]: one["part"] for one in rows.LEDGER}
    assert (parts["anon"], parts["cache_clean"], parts["free_trapped"]) == (
        "needed",
        "cache",
        "trapped",
    )
    assert (parts["vmm"], parts["free_returned"], parts["balloon"]) == ("own", "returned", "other")
