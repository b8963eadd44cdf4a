"""The command line itself: a file is a command, errors are one line, signals have their codes."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import types
from typing import TYPE_CHECKING

import pytest

from giveback import cli, commands
from giveback.errors import InputError, Interrupted, VmError
from giveback.interrupts import run_interruptible, stopping

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def test_every_file_in_commands_is_a_command_with_a_line_of_help() -> None:
    names = cli.command_names()
    assert "demo" in names
    text = cli.build_parser().format_help()
    for name in names:
        assert name.replace("_", "-") in text


def test_help_lists_the_commands_by_group_no_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    helps = {"ps": "list VMs " * 20, "daemon": "run", "vendor-thing": "of another distribution"}
    for columns in (40, 80, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = cli._grouped(helps)
        assert max(map(len, text.splitlines())) <= max(columns, 47)
        titles = [line for line in text.splitlines() if line.endswith(":")]
        assert titles == ["See where memory is:", "Run the service:", "Others:"]
    monkeypatch.setenv("COLUMNS", "80")
    whole = cli.build_parser().format_help()
    assert "Others:" not in whole
    assert {whole.count(f"\n  {name} ") for name in sum(cli.GROUPS.values(), ())} == {1}


def test_a_command_of_the_lab_says_what_to_install_where_the_lab_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda **_: ())
    for name in cli.LAB_COMMANDS:
        assert name not in cli.command_names()
        assert cli.main([name, "--help"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"giveback: {name}: ")
        assert "pip install giveback-lab" in line


def test_help_is_read_without_importing_a_command() -> None:
    code = (
        "import sys; from giveback.cli import build_parser; build_parser().format_help(); "
        "print([m for m in sys.modules if m.startswith('giveback') and '.commands.' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "slow"),
    [
        (["--help"], "asyncio importlib.metadata ast pydantic httpx2 qemu.qmp"),
        (
            ["ps", "--help"],
            "importlib.metadata qemu.qmp pydantic matplotlib numpy starlette httpx2",
        ),
        (["explain", "--help"], "importlib.metadata pydantic matplotlib numpy starlette httpx2"),
        (["doctor", "--help"], "importlib.metadata pydantic matplotlib numpy starlette httpx2"),
        (["enable", "--help"], "importlib.metadata pydantic matplotlib numpy starlette httpx2"),
    ],
)
def test_nothing_slow_is_imported_before_it_is_needed(words: list[str], slow: str) -> None:
    code = (
        f"import sys; from giveback.cli import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
        f"print('slow:', *[m for m in {slow.split()!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "slow:"


def test_entry_points_are_those_that_python_finds() -> None:
    from importlib.metadata import entry_points

    expected = {point.value for point in entry_points(group=cli.GROUP)}
    assert {point.value for point in cli.entry_points(group=cli.GROUP)} == expected
    assert "giveback_lab.commands" in expected
    console = {point.value for point in entry_points(group="console_scripts")}
    assert {point.value for point in cli.entry_points(group="console_scripts")} == console


@pytest.mark.parametrize("name", cli.command_names())
def test_only_the_command_that_is_named_is_imported(name: str) -> None:
    code = (
        f"import sys; from giveback.cli import build_parser; build_parser([{name!r}]); "
        "print(*[m for m in sys.modules if m.startswith('giveback') and '.commands.' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path, file = cli.command_files()[name]
    assert {m for m in done.stdout.split() if "._" not in m} == {path}
    module = importlib.import_module(path)
    assert cli._help_in(file) == module.HELP


def add_command(monkeypatch: pytest.MonkeyPatch, run: Callable[[argparse.Namespace], int]) -> None:
    module = types.ModuleType("giveback.commands.probe", "A command.")
    module.__dict__.update(HELP="h", prepare_parser=lambda _: None, run=run)
    monkeypatch.setitem(sys.modules, "giveback.commands.probe", module)
    monkeypatch.setattr(commands, "probe", module, raising=False)
    monkeypatch.setattr(cli, "command_names", lambda: ["probe"])


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("--mem: bad"), 2), (VmError("vm: ended"), 1), (Interrupted("SIGTERM", 15), 143)],
)
def test_an_error_is_one_line_and_a_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise error

    add_command(monkeypatch, run)
    assert cli.main(["probe"]) == code
    assert capsys.readouterr().err == f"giveback: {error}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_command_with_its_code(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        os.kill(os.getpid(), number)
        signal.pause()
        return 0

    add_command(monkeypatch, run)
    before = signal.getsignal(number)
    assert cli.main(["probe"]) == 128 + number
    assert signal.getsignal(number) is before
    assert capsys.readouterr().err == f"giveback: stopped by {number.name}\n"


def test_a_signal_lets_a_coroutine_clean_up_and_a_second_one_does_not_hurry_it() -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.05)
            done.append("clean")

    with pytest.raises(Interrupted) as caught:
        run_interruptible(work())
    assert caught.value.exit_code == 143
    assert done == ["clean"]


def test_within_stopping_a_coroutines_handlers_are_put_back() -> None:
    async def nothing() -> int:
        return 3

    with stopping():
        before = signal.getsignal(signal.SIGTERM)
        assert run_interruptible(nothing()) == 3
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_has_gone_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m giveback --help | true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_bad_usage_ends_with_2() -> None:
    for words in ([], ["no-such-command"], ["demo", "--accel", "xen"], ["demo", "--seed", "x"]):
        done = subprocess.run(
            [sys.executable, "-m", "giveback", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "usage:" in done.stderr
