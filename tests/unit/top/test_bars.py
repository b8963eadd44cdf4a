"""The bars: they are as wide as asked, nothing known vanishes, and no colour is needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from top_samples import GIB, MIB, snapshot, top_vm

from giveback.reporters.tables.columns import width_of
from giveback.top import bars
from giveback.top.model import VmParts
from giveback.top.once import joined

AMOUNTS = st.integers(0, 1 << 50)
CELLS = st.integers(0, 300)


@given(st.lists(AMOUNTS, max_size=6), AMOUNTS, CELLS)
def test_shares_fit_and_what_there_is_has_a_cell(
    amounts: list[int], whole: int, cells: int
) -> None:
    found = bars.shares(amounts, whole, cells)
    assert len(found) == len(amounts)
    assert sum(found) <= max(cells, 0)
    assert all(count >= 0 for count in found)
    if cells >= len(amounts):
        assert all(count > 0 for count, amount in zip(found, amounts, strict=True) if amount)


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, st.none() | AMOUNTS, st.integers(1, 120))
def test_a_bar_is_exactly_as_wide_as_asked(
    needed: int, cache: int, trapped: int, returned: int, ram: int | None, cells: int
) -> None:
    vm = top_vm(ram_bytes=ram, parts=VmParts(needed, cache, trapped, returned))
    for one in (vm, top_vm(ram_bytes=ram, parts=None, resident_bytes=needed)):
        assert width_of(joined(bars.vm_bar(one, cells))) == cells
    shown = snapshot(vm)
    assert shown.host is not None
    assert width_of(joined(bars.host_bar(shown.host, shown.vms, cells))) == cells


def test_the_four_parts_are_in_proportion_and_differ_without_colour() -> None:
    vm = top_vm(ram_bytes=2 * GIB, parts=VmParts(1024 * MIB, 512 * MIB, 256 * MIB, 128 * MIB))
    assert joined(bars.vm_bar(vm, 16)) == "████████▓▓▓▓▒▒░·"
    assert len(set(bars.GLYPHS.values()) - {"·"}) == len(bars.GLYPHS) - 2


def test_what_is_small_is_still_seen() -> None:
    vm = top_vm(ram_bytes=64 * GIB, parts=VmParts(60 * GIB, 1, 1, 1))
    assert joined(bars.vm_bar(vm, 10)) == "███████▓▒░"


def test_the_palette_is_okabes_and_itos() -> None:
    okabe_ito = {"#56B4E9", "#F0E442", "#D55E00", "#009E73"}
    assert {bars.STYLES[name] for name in bars.PARTS} == okabe_ito


@given(st.lists(st.none() | st.floats(-1e20, 1e20), max_size=60), st.floats(-1, 1e20), CELLS)
def test_a_sparkline_has_its_width_and_the_newest_value_at_the_right(
    values: list[float | None], most: float, cells: int
) -> None:
    line = bars.sparkline(values, most, cells)
    assert len(line) == cells
    if cells and values and len(values) <= cells and values[-1] is None:
        assert line[-1] == "·"


def test_a_sparkline_of_many_values_has_all_of_them_in_few_cells() -> None:
    assert bars.sparkline((1, 2, 3, 4, None, None, 8, 1), 8, 4) == "▂▄·█"
    assert bars.sparkline((1, 8), 8, 4) == "  ▁█"


def test_the_host_bar_separates_vms_from_others() -> None:
    shown = snapshot(top_vm(), top_vm("silent", 2, parts=None))
    assert shown.host is not None
    text = joined(bars.host_bar(shown.host, shown.vms, 64))
    assert [mark for mark in "█▓▒▞=·" if mark in text] == list("█▓▒▞=·")
    assert text.count("·") == 24
