"""Lines fit any terminal, and say what a VM and its host are like."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from top_samples import GIB, MIB, snapshot, top_vm

from giveback.reporters.tables.columns import width_of
from giveback.top import lines, once
from giveback.top.model import TopHost
from giveback.top.once import joined
from giveback.top.order import SORTS, TopView
from giveback.top.status_text import explained, findings_of
from giveback_kernel.escaping import escape_for_terminal

WIDTHS = st.integers(20, 260)
NAMES = st.text(max_size=80).map(lambda text: escape_for_terminal(text, 64))


@given(NAMES, NAMES, NAMES, st.booleans(), WIDTHS)
def test_every_line_is_exactly_as_wide_as_the_terminal(
    name: str, owner: str, verdict: str, is_known: bool, width: int
) -> None:
    vm = top_vm(name, owner=owner, verdict=verdict, condition=verdict)
    if not is_known:
        vm = replace(vm, parts=None, ram_bytes=None, resident_bytes=None)
    for values in ((), (1.0, None, 2.0), None):
        assert width_of(joined(lines.vm_line(vm, values, width))) == width
    assert width_of(joined(lines.head(width, TopView()))) == width
    for line in lines.host_lines(snapshot(vm), width):
        assert width_of(joined(line)) == width
    for text in (*lines.detail_lines(vm, width), *explained(vm, width).split("\n")):
        assert width_of(text) <= width


@given(NAMES, WIDTHS)
def test_text_for_scripts_is_no_wider_than_asked(name: str, width: int) -> None:
    shown = snapshot(top_vm(name), problems=(f"{name} is wrong",))
    text = once.text(shown, TopView(), "a script", width)
    assert all(width_of(line) <= width for line in text.split("\n"))
    assert text.isprintable() or "\n" in text


def test_at_80_columns_all_but_the_owner_is_there() -> None:
    line = joined(lines.vm_line(top_vm(), (GIB, GIB // 2), 80))
    for words in ("web", "2.0 GiB", "█", "▓", "▒", "░", "▄", "0.0 %", "ok", "asked"):
        assert words in line
    assert joined(lines.head(80, TopView())).split() == [
        "NAME", "RAM", "MEMORY", "▼trapped", "TREND", "PRESSURE", "CONDITION", "LAST", "REQUEST",
    ]  # fmt: skip


def test_a_host_says_what_it_uses_how_urgent_it_is_and_when_it_runs_out() -> None:
    first, second = (joined(line) for line in lines.host_lines(snapshot(top_vm()), 120))
    assert "10 GiB of 16 GiB used, 6.0 GiB available" in first
    assert "urgency 1 (soon short) · forecast: runs out in 1 min 30 s · pressure 1.5 %" in second
    alone = lines.host_words(TopHost(GIB, GIB // 2))
    assert alone == ("no daemon decides here", "dim")
    none = [joined(line) for line in lines.host_lines(snapshot(host=None), 80)]
    assert none[0].startswith("HOST  not sampled yet")


@pytest.mark.parametrize(
    ("stall", "available", "words"),
    [
        (None, None, ("-", "dim")),
        (0.0, 80.0, ("0.0 %", "dim")),
        (12.34, 80.0, ("12.3 %", "bad")),
        (None, 4.0, ("low 4 %", "bad")),
        (None, 40.0, ("none", "dim")),
    ],
)
def test_a_guest_short_of_memory_is_marked(
    stall: float | None, available: float | None, words: tuple[str, str]
) -> None:
    vm = top_vm(stall_percent=stall, guest_available_percent=available)
    assert lines.pressure(vm) == words


def test_the_order_is_marked_in_the_head() -> None:
    for sort in SORTS:
        for is_reversed, arrow in ((False, "▼"), (True, "▲")):
            text = joined(lines.head(160, TopView(sort.name, is_reversed)))
            assert text.count(arrow) == 1


def test_a_vm_says_its_parts_in_numbers() -> None:
    first, second = lines.detail_lines(top_vm(), 200)
    assert "needed 500 MiB, cache 300 MiB, trapped 200 MiB (50 MiB in small blocks)" in first
    assert second == "ok: idle; urgency 1; asked 512 MiB, got 498 in 9 s"
    unknown = top_vm(parts=None, unknown="the guest sends no numbers")
    assert "not known: the guest sends no numbers" in lines.detail_lines(unknown, 200)[0]


def test_what_a_status_knows_of_a_vm() -> None:
    vm = top_vm(rows={"anonymous": 400 * MIB}, ram_rows={"ballooned or unplugged": 100 * MIB})
    text = explained(vm, 100)
    assert text.index("trapped: free in the guest") < text.index("anonymous")
    assert "ballooned or unplugged" in text
    assert findings_of(top_vm(condition_text="")) == "web: nothing found that keeps memory"
    assert "reporting is off" in findings_of(top_vm(doctor=("reporting is off",)))


def test_a_script_sees_how_many_are_shown() -> None:
    shown = snapshot(top_vm(), top_vm("db", 2))
    assert "2 VMs, 1 shown; a script" in once.text(shown, TopView(words="db"), "a script")
    assert "no VM runs on this host" in once.text(snapshot(), TopView(), "a script")
