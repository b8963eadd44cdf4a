"""Tables of VMs: no line is wider than the terminal, whatever the names; columns can be chosen."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_samples import action, status, vm_status
from observations import GIB, GUEST, MIB, observation

from giveback.accounting.activity import Activity
from giveback.accounting.usage import NO_GUEST
from giveback.cli import with_values
from giveback.commands import _table
from giveback.errors import InputError
from giveback.manager.model import Decision, VmStatus
from giveback.reporters import daemon_status, explanation, vm_table
from giveback.reporters.tables.columns import cut, short, width_of, wrapped
from giveback.reporters.tables.vm_columns import (
    PS,
    STATUS,
    Column,
    TableView,
    VmRow,
    in_order,
    parse_columns,
    parse_sort,
)

NAMES = st.lists(st.text(max_size=60), min_size=1, max_size=4)
WIDTHS = st.integers(10, 220)
WIDE = "虚拟机-データベース-서버"
FULL = Activity(0, 90061.0, 12.5, 3 * MIB, 1.0 * MIB, 0.0)


def view(columns: str = "", sort: str = "", known: tuple[Column, ...] = PS) -> TableView:
    column, is_reversed = parse_sort(sort, known) if sort else (None, False)
    return TableView(parse_columns(columns, known) if columns else (), column, is_reversed)


@given(st.text(max_size=60), st.integers(1, 70))
def test_text_is_cut_only_if_it_does_not_fit(text: str, width: int) -> None:
    found = short(text, width)
    assert width_of(found) <= width
    assert found.isprintable()
    if width_of(text) <= width and text.isprintable() and len(text) <= width:
        assert found == text


def test_a_chinese_letter_has_two_cells_and_an_accent_none() -> None:
    assert width_of("虚拟机") == 6
    assert width_of("e\u0301") == 1
    assert cut("虚拟机", 5) == "虚拟…"
    assert cut("虚拟机", 4) == "虚…"
    assert cut("x", 0) == ""


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=300), WIDTHS)
def test_a_wrapped_line_loses_nothing_but_spaces(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(width_of(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@settings(deadline=None, max_examples=60)
@given(NAMES, WIDTHS)
def test_no_line_of_ps_is_wider_than_the_terminal(names: list[str], width: int) -> None:
    seen = [
        observation(name, pid, problems=(name,), guest=NO_GUEST if pid % 2 else GUEST)
        for pid, name in enumerate(names, 1)
    ]
    host = vm_table.HostSide(16 * GIB, dict.fromkeys(range(5), FULL), {0: names[0]})
    for chosen in (view(), view("owner,name,cpu,uptime,resident,swap-in", "-owner")):
        for line in vm_table.text(seen, width, host, chosen).split("\n"):
            assert width_of(line) <= width, line
            assert line.isprintable()


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=60), st.integers(30, 130))
def test_no_line_of_explain_but_those_to_paste_is_wider_than_the_terminal(
    name: str, width: int
) -> None:
    for guest in (GUEST, NO_GUEST, replace(GUEST, total_bytes=8 * GIB, free_bytes=4 * GIB)):
        seen = observation(name, guest=guest, problems=(name,))
        for line in explanation.text(seen, width).split("\n"):
            pasted = line.startswith("      ") and "giveback" in line
            assert pasted or width_of(line) <= width, line


def test_explain_and_the_table_show_the_same_returnable_memory() -> None:
    text = explanation.text(observation(), 80)
    returnable = "returnable: 436 MiB (350 MiB free but still held, 86 MiB cold cache, 0 KiB warm"
    assert returnable in " ".join(text.split())
    assert vm_table.documents([observation()])[0]["returnable_bytes"] == 436 * MIB
    assert "= in use" in text


@settings(deadline=None, max_examples=60)
@given(NAMES, WIDTHS)
def test_no_line_of_status_is_wider_than_the_terminal(names: list[str], width: int) -> None:
    vms = [
        vm_status(name, pid, condition_text=name, doctor=(name,), uid=pid)
        for pid, name in enumerate(names, 1)
    ]
    done = tuple(action(vm=vm.key, verdict=name) for vm, name in zip(vms, names, strict=True))
    now = status(*vms, actions=done, problems=tuple(names), settings_source=names[0])
    for chosen in (view(), view("last,name,urgency,vmm-own", "-last", STATUS)):
        for line in daemon_status.text(now, 1e9, width, {1: names[0]}, chosen).split("\n"):
            assert width_of(line) <= width, line
            assert line.isprintable()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_long_or_wide_name_does_not_remove_a_column(width: int) -> None:
    def head(name: str) -> str:
        return vm_table.text([observation(name), observation("b", 2)], width).split("\n")[0]

    assert head("x" * 60).split() == head("x" * 20).split() == head(WIDE).split()


def test_the_columns_stay_aligned_below_wide_names() -> None:
    lines = vm_table.text([observation(WIDE), observation("b", 2)]).split("\n")[:3]
    ends = {width_of(line[: line.index("qemu")]) for line in lines[1:]}
    assert ends == {width_of(lines[0][: lines[0].index("VMM")])}


def test_ps_shows_the_owner_and_the_activity_of_a_vm() -> None:
    host = vm_table.HostSide(16 * GIB, {1: FULL}, {0: "root"})
    seen = [observation("a", 1), observation("b", 2)]
    head, one, two, total, *_ = vm_table.text(
        seen, 200, host, view("name,owner,host,vmm-own,cpu,uptime,swapped,swap-in,swap-out", "name")
    ).split("\n")
    heads = "NAME OWNER % HOST VMM OWN CPU % UPTIME SWAPPED SWAP IN SWAP OUT"
    assert " ".join(head.split()) == heads
    for cell in ("root", "4.7", "50 MiB", "12.5", "1 d 1 h", "3 MiB", "1 MiB/s", "0 KiB/s"):
        assert f" {cell} " in f"{one} "
    assert " ? " in two
    assert total.startswith("total")
    assert "100 MiB" in total
    document = vm_table.documents(seen, host)[0]
    assert document["owner"] == "root"
    assert document["own_bytes"] == 50 * MIB
    assert document["host_percent"] == pytest.approx(100 * 774 / 16384)
    assert document["swap_in_bytes_per_s"] == MIB
    assert vm_table.documents(seen, host)[1]["cpu_percent"] is None
    # A uid without a name, such as a container's.
    unnamed = vm_table.HostSide(None, {1: replace(FULL, uid=100123)})
    assert vm_table.documents(seen, unnamed)[0]["owner"] == "100123"


def test_status_shows_the_same_and_a_total() -> None:
    vms = [
        vm_status("a", 1, uid=107, host_percent=6.25, cpu_percent=150.0, uptime_s=90.0),
        vm_status("b", 2, swap_bytes=MIB, swap_out_bytes_per_s=2.0 * MIB, own_bytes=30 * MIB),
    ]
    text = daemon_status.text(status(*vms), 1e9, owners={107: "libvirt-qemu"})
    lines = text.split("\n")
    at = next(at for at, line in enumerate(lines) if line.startswith("NAME"))
    one, two, total = lines[at + 1 : at + 4]
    assert "libvirt-qemu" in one
    assert "1 min 30 s" in one
    assert "150" in one
    assert "2 MiB/s" in two
    assert total.startswith("total")
    assert "4.0 GiB" in total
    assert "VMM OWN: the VMM's own memory" in lines[at + 4]


def test_forty_columns_show_how_each_vm_stands() -> None:
    vms = [vm_status("giveback-web", 1), vm_status("giveback-db", 2)]
    done = tuple(action(vm=vm.key) for vm in vms)
    text = daemon_status.text(status(*vms, actions=done), 1e9, 40)
    head = next(line for line in text.split("\n") if line.startswith("NAME"))
    assert head.split() == ["NAME", "RESIDENT", "FREE", "HELD", "CONDITION"]


def test_columns_without_sums_have_no_total() -> None:
    vms = [vm_status("a", 1), vm_status("b", 2)]
    text = daemon_status.text(status(*vms), 1e9, view=view("name,condition,urgency", "", STATUS))
    assert "total" not in text


def test_a_distant_shortage_is_not_called_trouble() -> None:
    calm = Decision(0, 0, 1653.0, (), "22 GiB of 24: enough for now, runs out in 28 min", 10.0)
    assert "trouble" not in daemon_status.text(status(decision=calm), 1e9)
    assert "trouble in 27 min" in daemon_status.text(status(decision=replace(calm, urgency=1)), 1e9)


def test_one_vm_has_no_total_and_no_number_is_its_label() -> None:
    assert "total" not in vm_table.text([observation()])
    seen = [observation("a"), observation("b", 2)]
    assert "total" not in vm_table.text(seen, view=view("ram,resident"))
    assert "\ntotal" in vm_table.text(seen, view=view("vmm,resident"))


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("ram", "b a c"), ("-ram", "a b c"), ("name", "a b c"), ("-name", "c b a"),
        ("", "a b c"), ("NAME", "a b c"), ("pid", "c b a"), ("in-use", "a b c"),
    ],
)  # fmt: skip
def test_sorting(sort: str, order: str) -> None:
    rows = [VmRow("k", "c", 9, "qemu", None, 1), VmRow("k", "b", 8, "qemu", 7, 1),
            VmRow("k", "a", 7, "qemu", 0, 1)]  # fmt: skip
    found = in_order(rows, lambda row: row, view(sort=sort))
    assert [row.name for row in found] == order.split()


@given(st.lists(st.tuples(st.none() | st.integers(0, 9), st.text(max_size=2)), max_size=9))
def test_sorting_loses_none_and_puts_the_unknown_last(found: list[tuple[int | None, str]]) -> None:
    rows = [VmRow("k", name, pid, "q", ram, 1) for pid, (ram, name) in enumerate(found)]
    for sort in ("ram", "-ram", "name", "-owner", "uptime"):
        ordered = in_order(rows, lambda row: row, view(sort=sort))
        assert sorted(row.pid for row in ordered) == [row.pid for row in rows]
        if sort == "ram":
            known = [row.ram_bytes for row in ordered if row.ram_bytes is not None]
            assert known == sorted(known, reverse=True)
            assert all(row.ram_bytes is None for row in ordered[len(known) :])


def test_the_error_for_an_unknown_column_lists_all_columns() -> None:
    with pytest.raises(
        InputError, match=r"--columns: .* 'nme'; there are: name, pid, owner.*, bar"
    ):
        parse_columns("pid,nme", PS)
    with pytest.raises(InputError, match=r"--sort: .* 'bar'; there are: .*condition, last"):
        parse_sort("bar", STATUS)
    with pytest.raises(InputError, match="''"):
        parse_columns("", PS)
    assert [column.head for column in parse_columns("IN USE, pid,free_held,pid", PS)] == [
        "IN USE", "PID", "FREE HELD",
    ]  # fmt: skip


@given(st.text(max_size=80))
def test_any_word_is_a_column_or_an_error(text: str) -> None:
    for parse in (parse_columns, parse_sort):
        with contextlib.suppress(InputError):
            assert parse(text, PS)


def test_every_column_has_a_one_word_name_and_its_head_as_names() -> None:
    for known in (PS, STATUS):
        assert len({column.word for column in known}) == len(known)
        for column in known:
            assert parse_columns(column.word, known) == parse_columns(column.head, known)


def test_a_reversed_sort_is_one_word_to_argparse() -> None:
    assert with_values(["ps", "--sort", "-cpu", "--json"]) == ["ps", "--sort=-cpu", "--json"]
    assert with_values(["ps", "--sort", "--json"]) == ["ps", "--sort", "--json"]
    parser = argparse.ArgumentParser()
    _table.add_arguments(parser, PS)
    args = parser.parse_args(with_values(["a", "--sort", "-cpu", "--columns", "name,cpu"]))
    assert args.names == ["a"]
    chosen = _table.view(args)
    assert (chosen.sorted_by, chosen.is_reversed) == parse_sort("-cpu", PS)
    parser.format_help()


def words_of(vm: VmStatus) -> tuple[str, str, str]:
    return vm.key, vm.name, str(vm.pid)


def test_vms_are_chosen_by_name_key_or_pid() -> None:
    vms = [vm_status("a", 1), vm_status("b", 2), vm_status("b", 3)]
    assert _table.named(vms, [], words_of) == vms
    assert _table.named(vms, ["1"], words_of) == vms[:1]
    assert _table.named(vms, ["b", "qemu/a/1"], words_of) == vms
    with pytest.raises(
        InputError, match=r"called 'x\\x1b', 'y'; .* of: a \(pid 1\), b \(pid 2\), b"
    ):
        _table.named(vms, ["a", "x\x1b", "y"], words_of)
    with pytest.raises(InputError, match="no VM runs here"):
        _table.named([], ["a"], words_of)


def test_owners_have_names_if_the_system_knows_them() -> None:
    assert _table.owners([0, None, 0, 4_000_000_000, 1 << 80]) == {0: "root"}
