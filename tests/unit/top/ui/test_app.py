"""The application, driven by Textual's pilot: every key, every fault, every size."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from textual.events import Key
from textual.widgets import Input, Static
from top_samples import DEADLINE_S, MIB, ScriptedSource, snapshot, top_vm, until

from giveback.errors import InputError, VmError
from giveback.manager.http.client import NoDaemonError
from giveback.top.model import ReclaimPlan, VmParts
from giveback.top.order import TopView
from giveback.top.replay import Scrub
from giveback.top.ui.app import TopApp
from giveback.top.ui.dialogs import ReclaimScreen, TextScreen
from giveback.top.ui.table import VmTable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.pilot import Pilot

    from giveback.top.model import TopSnapshot
    from giveback.top.sources.history import HistoryReplay

NASTY = ("[red]x[/red]", "\\x1b[2J", "数据库", "<img onerror=1>", "[@click=app.leave]q[/]")


class ScriptedReplay:
    """Three moments; the VM's trapped memory is its time in MiB."""

    def begin(self) -> Scrub:
        return Scrub.over((10, 20, 30))

    def recent(self, last_s: int) -> list[TopSnapshot]:
        return [snapshot(top_vm(resident_bytes=last_s))]

    def snapshot(self, wall_s: int) -> TopSnapshot:
        parts = VmParts(500 * MIB, 0, wall_s * MIB, 0)
        return snapshot(top_vm("then", 1, parts=parts, rows={"anonymous": 5 * MIB}), wall_s=wall_s)


def _no_replay() -> HistoryReplay:
    raise InputError("the settings keep no history")


def run(
    source: ScriptedSource,
    script: Callable[[TopApp, Pilot[int]], Awaitable[None]],
    *,
    size: tuple[int, int] = (100, 30),
    replay: Callable[[], object] = _no_replay,
    view: TopView | None = None,
) -> TopApp:
    """Run the application through a script, once its first snapshot or failure is shown."""
    app = TopApp(source, view or TopView(), replay)  # type: ignore[arg-type]

    async def live() -> None:
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.shown is not None or "NOT LIVE" in line(app, "legend"))
            await pilot.pause()
            await script(app, pilot)

    asyncio.run(live())
    return app


def line(app: TopApp, name: str) -> str:
    """What a line of the screen says."""
    return str(app.screen_stack[0].query_one(f"#{name}", Static).render())


def rows(app: TopApp) -> list[str]:
    """The visible lines of the table."""
    table = app.screen_stack[0].query_one(VmTable)
    return [table.render_line(y).text.rstrip() for y in range(table.size.height)]


def dialog(app: TopApp, name: str = "text") -> str:
    return str(app.screen.query_one(f"#{name}", Static).render())


def is_in_dialog(app: TopApp, words: str) -> bool:
    return words in dialog(app)


def test_host_vms_and_the_selected_one_are_shown() -> None:
    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        assert "10 GiB of 16 GiB used" in line(app, "host")
        assert "runs out in 1 min 30 s" in line(app, "state")
        assert "2 VMs · a script" in line(app, "legend")
        assert [row.split()[0] for row in rows(app)[:2]] == ["db", "web"]
        await pilot.press("down")
        assert "web (pid 100)" in line(app, "detail")

    run(ScriptedSource(snapshot(top_vm(), top_vm("db", 2))), script)


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (20, 8), (200, 60)])
def test_it_fits_any_terminal_and_follows_its_size(size: tuple[int, int]) -> None:
    vms = [top_vm(name, at) for at, name in enumerate(NASTY)]

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        for width, height in (size, (size[0] + 13, size[1] + 5), size):
            await pilot.resize_terminal(width, height)
            await until(pilot, lambda: app.query_one(VmTable).size.width == app.size.width)
            assert app.size.width == width
            await pilot.pause()
            assert "NAME" in line(app, "head")
            assert any("2.0 GiB" in row for row in rows(app))

    run(ScriptedSource(snapshot(*vms)), script, size=size)


def test_names_are_neither_markup_nor_escapes() -> None:
    vms = [top_vm(name, at, condition_text=name, verdict=name) for at, name in enumerate(NASTY)]

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        shown = "\n".join(rows(app))
        for name in NASTY:
            assert name in shown
        await pilot.press("down", "down")
        assert "[red]x[/red] (pid 0)" in line(app, "detail")
        await pilot.press("enter")
        await until(pilot, lambda: "every byte of [red]x[/red]" in dialog(app))

    run(ScriptedSource(snapshot(*vms)), script, size=(140, 30))


def test_a_vm_is_explained_and_doctored() -> None:
    source = ScriptedSource(snapshot(top_vm()))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        for key, words in (
            ("enter", "every byte of web"),
            ("d", "what keeps web"),
            ("?", "trapped"),
        ):
            await pilot.press(key)
            await until(pilot, partial(is_in_dialog, app, words))
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, TextScreen))
        source.gone = True
        await pilot.press("enter")
        await until(pilot, lambda: dialog(app) == "the VM is gone")

    run(source, script)


def test_a_reclaim_is_previewed_and_only_then_confirmed() -> None:
    source = ScriptedSource(snapshot(top_vm()))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("r")
        await until(pilot, lambda: "web would give 400 MiB" in dialog(app, "plan"))
        assert [one[0] for one in source.asked] == ["plan"]
        app.screen.query_one(Input).value = "64M"
        await until(pilot, lambda: "web would give 64 MiB" in dialog(app, "plan"))
        await pilot.press("tab")
        await until(pilot, lambda: source.asked[-1] == ("plan", 64 * MIB, ()))
        await until(pilot, lambda: "Enter reclaims 64 MiB" in dialog(app, "hint"))
        await pilot.press("enter")
        await until(pilot, lambda: "64 MiB came" in dialog(app, "plan"))
        await pilot.press("enter")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, ReclaimScreen))

    run(source, script)
    assert [one for one in source.asked if one[0] == "reclaim"] == [("reclaim", 64 * MIB, ())]


@pytest.mark.parametrize("text", ["", "5", "-1G", "no", "1K", "9" * 19 + "G"])
def test_a_size_that_is_none_reclaims_nothing(text: str) -> None:
    source = ScriptedSource(snapshot(top_vm()))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("r")
        await until(pilot, lambda: "would give" in dialog(app, "plan"))
        app.screen.query_one(Input).value = text
        await until(pilot, lambda: "size" in dialog(app, "plan"))
        await pilot.press("enter")
        await pilot.pause()

    run(source, script)
    assert "reclaim" not in [one[0] for one in source.asked]


def test_what_cannot_be_planned_is_said() -> None:
    class Refusing(ScriptedSource):
        def plan(self, goal_bytes: int, keys: tuple[str, ...]) -> ReclaimPlan:
            del goal_bytes, keys
            raise InputError("no daemon runs")

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("r")
        await until(pilot, lambda: dialog(app, "plan") == "no daemon runs")
        await pilot.press("enter", "escape")

    source = Refusing(snapshot(top_vm()))
    run(source, script)
    assert source.asked == []


def test_sort_reverse_and_filter() -> None:
    vms = [top_vm(name, at, owner=name[0]) for at, name in enumerate(("ann", "bob", "cyd"))]

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("s", "o")
        assert app.view == TopView("name", is_reversed=True)
        await until(
            pilot, lambda: [row.split()[0] for row in rows(app)[:3]] == ["cyd", "bob", "ann"]
        )
        await pilot.press("slash", "b", "o")
        await until(pilot, lambda: rows(app)[1] == "")
        assert "1 of 3 VMs by 'bo'" in line(app, "legend")
        await pilot.press("enter", "S")
        assert app.view.sort == "trapped"
        await pilot.press("escape")
        await until(pilot, lambda: rows(app)[2] != "")

    run(ScriptedSource(snapshot(*vms)), script)


def test_words_that_are_typed_at_once_are_not_lost() -> None:
    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        for key, character in (("slash", "/"), ("b", "b"), ("slash", "/"), ("minus", "-")):
            app.post_message(Key(key, character))
        await until(pilot, lambda: app.query_one("#filter", Input).value == "b/-")

    run(ScriptedSource(snapshot(top_vm())), script)


def at_once(app: TopApp, *keys: str) -> None:
    """Type keys without waiting for anything between them, as a pasted or a fast line is."""
    for key in keys:
        app.post_message(Key(key, key if len(key) == 1 else None))


def test_keys_that_follow_at_once_go_where_the_ones_before_led() -> None:
    source = ScriptedSource(snapshot(top_vm("web", 1), top_vm("db", 2)))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        at_once(app, "slash", "w", "e", "b", "enter", "enter")
        await until(pilot, lambda: isinstance(app.screen, TextScreen))
        await until(pilot, lambda: "every byte of web" in dialog(app))
        assert app.view.words == "web"
        at_once(app, "escape", "d")
        await until(pilot, lambda: "what keeps web" in dialog(app))
        at_once(app, "escape", "escape", "slash", "d", "b", "enter", "r", "ctrl+u", "7", "M")
        await until(pilot, lambda: isinstance(app.screen, ReclaimScreen))
        await until(pilot, lambda: app.screen.query_one(Input).value == "7M")
        assert app.view.words == "db"

    run(source, script)


def test_a_key_whose_handler_hangs_holds_up_no_other() -> None:
    source = ScriptedSource(snapshot(top_vm("web", 1), top_vm("db", 2)))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        table = app.query_one(VmTable)
        held = asyncio.Event()
        table.call_later(held.wait)
        at_once(app, "down", "slash")
        # The pilot's own pause would wait for the widget.
        deadline_s = time.monotonic() + DEADLINE_S
        while not app.query_one("#filter", Input).display:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.02)
        held.set()

    run(source, script)


def test_the_cursor_stays_on_its_vm() -> None:
    source = ScriptedSource(snapshot(*(top_vm(f"vm{at}", at) for at in range(50))))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        table = app.query_one(VmTable)
        await pilot.press("end")
        assert table.selected is not None
        assert table.selected.name == "vm9"
        await pilot.press("home", "pagedown", "up")
        name = table.selected.name
        source.say(snapshot(*(top_vm(f"vm{at}", at) for at in range(5, 50))))
        await until(pilot, lambda: "45 VMs" in line(app, "legend"))
        assert table.selected.name == name
        source.say(snapshot())
        await until(pilot, lambda: "no VM runs" in line(app, "legend"))
        await pilot.press("enter", "d", "down", "end")
        assert not isinstance(app.screen, TextScreen)

    run(source, script)


def test_a_daemon_that_is_gone_is_said_and_comes_back() -> None:
    source = ScriptedSource(snapshot(top_vm()))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        source.say(NoDaemonError("no daemon answers at /run/x"))
        await until(pilot, lambda: "NOT LIVE for" in line(app, "legend"))
        assert "no daemon answers at /run/x" in line(app, "legend")
        assert rows(app)[0].startswith("web")
        source.say(snapshot(top_vm("back", 5)))
        await until(pilot, lambda: rows(app)[0].startswith("back"))
        assert "NOT LIVE" not in line(app, "legend")

    run(source, script, size=(140, 30))


def test_an_error_of_the_source_does_not_end_it() -> None:
    source = ScriptedSource(snapshot(top_vm()))
    source.failure = ZeroDivisionError("by\x1b[2J zero")

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        assert "giveback's own" in line(app, "legend")
        assert "\x1b" not in line(app, "legend")
        source.say(snapshot(top_vm()))
        await until(pilot, lambda: rows(app)[0].startswith("web"))

    run(source, script, size=(200, 24))


def test_the_past_is_scrubbed_and_left() -> None:
    source = ScriptedSource(snapshot(top_vm()))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("t")
        await until(pilot, lambda: "trapped 30 MiB" in line(app, "detail"))
        assert "3/3" in line(app, "legend")
        await pilot.press("left")
        await until(pilot, lambda: "trapped 20 MiB" in line(app, "detail"))
        await pilot.press("shift+left", "left")
        await until(pilot, lambda: "trapped 10 MiB" in line(app, "detail"))
        assert "1/3" in line(app, "legend")
        await pilot.press("enter")
        await until(pilot, lambda: "anonymous" in dialog(app))
        await pilot.press("escape", "r")
        assert not isinstance(app.screen, ReclaimScreen)
        await pilot.press("t")
        await until(pilot, lambda: rows(app)[0].startswith("web"))

    run(source, script, replay=ScriptedReplay)
    assert source.asked == []


def test_a_history_that_fails_or_is_empty_is_said() -> None:
    class Empty(ScriptedReplay):
        def begin(self) -> Scrub:
            return Scrub.over(())

    class Damaged(ScriptedReplay):
        def snapshot(self, wall_s: int) -> TopSnapshot:
            raise VmError(f"history.db: damaged at {wall_s}")

    for replay, words in (
        (_no_replay, "no replay: the settings keep no history"),
        (Empty, "nothing of this time yet"),
        (Damaged, "the replay ended: history.db: damaged"),
    ):

        async def script(app: TopApp, pilot: Pilot[int], words: str = words) -> None:
            await pilot.press("t")
            await until(pilot, lambda: words in line(app, "legend"))
            assert app.scrub is None
            assert rows(app)[0].startswith("web")

        run(ScriptedSource(snapshot(top_vm())), script, replay=replay)


def test_a_pause_holds_the_table() -> None:
    source = ScriptedSource(snapshot(top_vm()))

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("p")
        assert "PAUSED" in line(app, "legend")
        source.say(snapshot(top_vm("new", 9)))
        await pilot.pause()
        assert rows(app)[0].startswith("web")
        await pilot.press("p")
        await until(pilot, lambda: rows(app)[0].startswith("new"))

    run(source, script)


def test_no_colour_is_drawn_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        assert app.no_color
        svg = app.export_screenshot()
        assert "█" in svg
        for colour in ("#56b4e9", "#f0e442", "#d55e00"):
            assert colour not in svg.lower()

    run(ScriptedSource(snapshot(top_vm())), script)


def test_q_ends_it_with_0() -> None:
    async def script(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("q")

    assert run(ScriptedSource(snapshot(top_vm())), script).return_value == 0
