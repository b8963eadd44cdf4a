"""A real terminal: tmux runs a command in one, shows its screen, and sends it keys."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

from peers import environment_of, peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEADLINE_S = 120.0


class Terminal:
    """One terminal with one command in it; it stays after the command has ended."""

    def __init__(
        self,
        command: Sequence[str],
        width: int = 100,
        height: int = 30,
        environment: dict[str, str] | None = None,
    ) -> None:
        program = peer("tmux", "tmux")
        # A socket's path must be short.
        self._folder = tempfile.mkdtemp(prefix="giveback-tmux-")
        self._tmux = [str(program.path), "-u", "-f", "/dev/null", "-S", f"{self._folder}/s"]
        self._environment = {
            **environment_of(program), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh",
            **(environment or {}),
        }  # fmt: skip
        self._environment.pop("TMUX", None)
        # What is set is taken from the first client's environment, names such as NO_COLOR too.
        self._run("new-session", "-d", "-x", str(width), "-y", str(height), "sleep 3600")
        self._run("set-option", "-g", "remain-on-exit", "on")
        self._run("respawn-pane", "-k", *command)
        self.pid = int(self._run("display-message", "-p", "#{pane_pid}"))

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], env=self._environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def screen(self) -> str:
        """Return what is on the screen, line by line."""
        return self._run("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        """Send keys by tmux's names: `Enter`, `Escape`, `Left`, `r`."""
        self._run("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        """Change the terminal's size."""
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def until(self, condition: Callable[[str], object], what: str = "") -> str:
        """Wait until the screen is as wanted; fails with the screen."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition(screen := self.screen()):
            assert time.monotonic() < deadline_s, f"{what or condition}:\n{screen}"
            time.sleep(0.1)
        return screen

    def exit_code(self) -> int | None:
        """Return the command's exit code; None while it runs."""
        words = self._run("display-message", "-p", "#{pane_dead} #{pane_dead_status}").split()
        if words == ["1"]:
            # tmux 3.3a has closed the terminal but missed its child's end: it asks again when told so.
            os.kill(self._server, signal.SIGCHLD)
        return int(words[1]) if words[:1] == ["1"] and len(words) > 1 else None

    @property
    def _server(self) -> int:
        return int(self._run("display-message", "-p", "#{pid}"))

    def die(self) -> None:
        """End as a closed window does: all of it, at once."""
        os.kill(self._server, signal.SIGKILL)

    def end(self) -> None:
        """End the terminal and what runs in it."""
        subprocess.run(
            [*self._tmux, "kill-server"], env=self._environment, capture_output=True, check=False
        )
        shutil.rmtree(self._folder, ignore_errors=True)
