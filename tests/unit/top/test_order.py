"""Order and filter: total, stable, and unknown values are last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from top_samples import MIB, top_vm

from giveback.top.model import TopVm, VmParts
from giveback.top.order import BY_NAME, SORTS, TopView, chosen, matches, next_sort

AMOUNT = st.integers(0, 1 << 40)
VMS = st.lists(
    st.builds(
        lambda name, pid, parts, ram, stall: top_vm(
            name, pid, parts=parts, ram_bytes=ram, stall_percent=stall
        ),
        st.text(max_size=8),
        st.integers(0, 9),
        st.none() | st.builds(VmParts, AMOUNT, AMOUNT, AMOUNT, AMOUNT),
        st.none() | AMOUNT,
        st.none() | st.floats(0, 100),
    ),
    max_size=12,
)


@given(VMS, st.sampled_from(SORTS), st.booleans())
def test_an_order_loses_none_and_puts_unknown_ones_last(
    vms: list[TopVm], sort: object, is_reversed: bool
) -> None:
    key = BY_NAME[getattr(sort, "name", "")]
    found = chosen(vms, TopView(key.name, is_reversed))
    assert sorted(map(id, found)) == sorted(map(id, vms))
    values = [key.value(vm) for vm in found]
    known = [value for value in values if value is not None]
    assert values[: len(known)] == known
    is_rising = key.is_number == is_reversed
    assert known == sorted(known, key=lambda value: value, reverse=not is_rising)


@given(VMS, st.text(max_size=12))
def test_a_filter_selects_some_in_the_same_order(vms: list[TopVm], words: str) -> None:
    everyone = chosen(vms, TopView())
    found = chosen(vms, TopView(words=words))
    assert list(found) == [vm for vm in everyone if matches(vm, words)]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ["ci", "db", "web"]),
        ("WEB", ["web"]),
        ("alice", ["db"]),
        ("agent", ["ci"]),
        ("-web -db", ["ci"]),
        ("qemu -alice", ["ci", "web"]),
        ("-", ["ci", "db", "web"]),
        ("web db", []),
    ],
)
def test_words_select_by_name_owner_and_condition(words: str, names: list[str]) -> None:
    vms = (top_vm("web"), top_vm("db", owner="alice"), top_vm("ci", condition="no agent"))
    found = chosen(vms, TopView("name", words=words))
    assert [vm.name for vm in found] == ([] if words == "-" else names)


def test_the_order_without_a_choice_is_by_what_is_held_but_unused() -> None:
    vms = [
        top_vm(str(trapped), parts=VmParts(0, 0, trapped * MIB, 0), pid=trapped)
        for trapped in (3, 9, 1)
    ]
    assert [vm.pid for vm in chosen(vms, TopView())] == [9, 3, 1]


def test_orders_follow_one_another_in_a_circle() -> None:
    view = TopView()
    names = [next_sort(view, steps) for steps in range(len(SORTS) + 1)]
    assert names == [*(sort.name for sort in SORTS), SORTS[0].name]
