"""`giveback top` in a real terminal: 200 VMs of a real daemon, which is killed and comes back."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from manager_process import Manager
from many_vms import many_vms
from scripted_guests import GIB, Host
from terminal import DEADLINE_S, Terminal

from giveback.reporters.tables.columns import width_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 195
NAMES = ("web", "db", "[b]x[-b]", "数据库", "e\x1b[31mvil")


class Live:
    """A host of 200 VMs, its daemon, and how `top` is started."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.stack = ExitStack()
        self.start()

    @property
    def command(self) -> list[str]:
        socket = f"{self.manager.host.folder}/api.sock"
        settings = str(self.manager.path)
        return [sys.executable, "-m", "giveback", "top", "--socket", socket, "--settings", settings]

    def start(self) -> None:
        self.stack.enter_context(self.manager.running())
        self.manager.until(
            lambda: len((self.manager.status() or {"vms": []})["vms"]) == MANY + len(NAMES)
        )

    def stop(self) -> None:
        self.stack.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    host = Host(tmp_path_factory.mktemp("top"), 64 * GIB)
    with ExitStack() as stack:
        for name in NAMES:
            if name == "web":
                guest = host.start(name, "exact", ram_mib=512, held_mib=448, cache_mib=420)
            else:
                guest = host.start(name, cache_mib=16)
            stack.callback(guest.end)
        stack.enter_context(many_vms(host, MANY))
        found = Live(Manager(host))
        stack.callback(found.stop)
        yield found


@pytest.fixture
def terminal(live: Live) -> Iterator[Terminal]:
    found = Terminal(live.command)
    try:
        found.until(lambda screen: "200 VMs" in screen, "the first snapshot")
        yield found
    finally:
        found.end()


def test_200_vms_are_listed_filtered_explained_and_left(terminal: Terminal) -> None:
    screen = terminal.until(lambda screen: "vm-" in screen or "web" in screen)
    assert screen.startswith("HOST ")
    assert "forecast: steady" in screen.split("\n")[1]
    terminal.press("/")
    terminal.press("-l", "vm-1")
    screen = terminal.until(lambda screen: "95 of 200 VMs" in screen)
    terminal.press("-l", "50")
    terminal.until(lambda screen: "1 of 200 VMs" in screen)
    terminal.press("Enter")
    terminal.press("Enter")
    terminal.until(lambda screen: "explain vm-150" in screen and "the host charges" in screen)
    terminal.press("Escape")
    terminal.until(lambda screen: "1 of 200 VMs" in screen)
    terminal.press("d")
    terminal.until(lambda screen: "doctor vm-150" in screen and "remedy" in screen)
    terminal.press("Escape")
    terminal.until(lambda screen: "NAME" in screen)
    terminal.press("Escape")
    terminal.until(lambda screen: "of 200" not in screen and "200 VMs" in screen)
    terminal.press("?")
    terminal.until(lambda screen: "select a VM" in screen)
    terminal.press("Escape")
    # A key at once after Escape would be Alt with that key.
    terminal.until(lambda screen: "NAME" in screen and "select a VM" not in screen)
    terminal.press("q")
    terminal.until(lambda _: terminal.exit_code() == 0, "its end")


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (180, 50)])
def test_it_fits_a_terminal_that_is_resized(terminal: Terminal, size: tuple[int, int]) -> None:
    terminal.resize(*size)
    # tmux cuts what was there to the new size before top draws: that may look whole but for its head.
    terminal.until(
        lambda screen: (
            "NAME" in screen
            and any(width_of(line) > size[0] - 6 for line in screen.split("\n")[:1])
            and width_of(screen.split("\n")[0]) <= size[0]
            and screen.rstrip("\n").count("\n") == size[1] - 1
        ),
        "the new size",
    )


def test_names_from_strangers_paint_nothing(terminal: Terminal) -> None:
    terminal.resize(140, 40)
    terminal.press("/")
    terminal.press("-l", "--", "-vm")
    screen = terminal.until(lambda screen: "5 of 200 VMs" in screen)
    for name in ("[b]x[-b]", "数据库", "e\\x1b[31mvil"):
        assert name in screen


def test_a_reclaim_is_previewed_confirmed_and_done(terminal: Terminal) -> None:
    terminal.press("/")
    terminal.press("-l", "web")
    terminal.until(lambda screen: "1 of 200 VMs" in screen)
    terminal.press("Enter")
    terminal.press("r")
    terminal.until(lambda screen: "dry run, nothing was asked" in screen)
    terminal.press("C-u")
    terminal.press("-l", "60M")
    terminal.until(lambda screen: "60 MiB wanted" in screen and "Enter reclaims 60 MiB" in screen)
    terminal.press("Enter")
    terminal.until(lambda screen: "reached" in screen)
    terminal.press("Escape")
    terminal.until(lambda screen: "asked" in screen and "got" in screen, "the verdict in the table")


def test_the_history_is_replayed(terminal: Terminal) -> None:
    def replays(screen: str) -> bool:
        state = screen.split("\n")[2]
        if "200 VMs" in state or "no replay" in state:
            terminal.press("t")
            terminal.until(lambda later: later.split("\n")[2] != state)
        return "back to live" in screen

    # The first row is written ten seconds after the daemon's start.
    terminal.until(replays, "the replay")
    terminal.until(lambda screen: "vm-" in screen or "web" in screen)
    terminal.press("Left")
    terminal.press("t")
    terminal.until(lambda screen: "back to live" not in screen and "200 VMs" in screen)


def test_a_daemon_that_is_killed_is_said_and_comes_back(live: Live, terminal: Terminal) -> None:
    live.stop()
    screen = terminal.until(lambda screen: "NOT LIVE" in screen)
    assert "trying again" in screen
    assert "vm-" in screen or "web" in screen
    terminal.press("r")
    terminal.until(lambda screen: "no daemon answers" in screen)
    terminal.press("Escape")
    live.start()
    terminal.until(lambda screen: "NOT LIVE" not in screen and "200 VMs" in screen)


def test_a_terminal_that_dies_ends_it(live: Live) -> None:
    dying = Terminal(live.command)
    dying.until(lambda screen: "200 VMs" in screen)
    process = Path(f"/proc/{dying.pid}/cmdline")
    assert b"giveback" in process.read_bytes()
    dying.die()
    deadline_s = time.monotonic() + DEADLINE_S
    while process.exists() and process.read_bytes():
        assert time.monotonic() < deadline_s, "top outlives its terminal"
        time.sleep(0.1)
    dying.end()


def test_a_script_gets_one_snapshot_as_text(live: Live) -> None:
    done = subprocess.run(
        [*live.command, "--filter", "-vm", "--sort", "name"],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "200 VMs, 5 shown; daemon " in done.stdout
    assert "\x1b" not in done.stdout
    names = [line.split()[0] for line in done.stdout.split("\n\n")[1].split("\n")[1:]]
    assert names == ["[b]x[-b]", "db", "e\\x1b[31mvil", "web", "数据库"]


def test_a_daemon_that_was_named_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "giveback", "top", "--socket", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 3
    assert "no daemon answers" in done.stderr
