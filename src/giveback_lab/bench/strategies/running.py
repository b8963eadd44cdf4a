"""A strategy inside guests: its programs, its kernel threads, and its changes there."""

from __future__ import annotations

import asyncio
import signal
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.guest.protocol import parse_object
from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.bench.strategy import CannotRun, Strategy
from giveback_lab.images.image import GUEST_LAB
from giveback_lab.packages.cache import content_key
from giveback_lab.vms.agent import STATUS_PATH, AgentLog, start_agent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from giveback_lab.bench.strategy import Running, Start
    from giveback_lab.vms.guest_link import ExecResult
    from giveback_lab.vms.vm import LabVm

GUEST_STRATEGIES = "giveback_lab_guest.strategies"
STARTED = "started"
START_DEADLINE_S = 120.0
ANSWER_DEADLINE_S = 60.0
# A program that writes to compact_memory handles SIGTERM only after the write has ended.
END_DEADLINE_S = 30.0
POLL_S = 0.3
LINES_IN_ERROR = 3


class InGuests:
    """The parts of a strategy in its guests; `stop` ends the programs and restores kernel files."""

    def __init__(self) -> None:
        self.guest_pids: dict[str, tuple[int, ...]] = {}
        self.problems: list[str] = []
        self._log = AgentLog()
        self._programs: list[tuple[LabVm, int]] = []
        self._changed: list[tuple[LabVm, str, str]] = []

    @property
    def log(self) -> str:
        """Return a line per action, each with its VM's name."""
        return self._log.text

    async def run(self, vm: LabVm, *words: str) -> None:
        """Run one of the guest's strategies and wait until it has started. Raises CannotRun and VmError."""
        lines: list[str] = []
        started = asyncio.Event()

        def hear(line: str) -> None:
            self._hear(vm, line)
            if started.is_set():
                return
            lines.append(line)
            if line.endswith(STARTED) or f": {STARTED}," in line:
                started.set()

        pid = await vm.watch(
            vm.guest.spawn("python3", GUEST_LAB, "strategy", *words, on_line=hear),
            ANSWER_DEADLINE_S, f"the start of {words[0]}",
        )  # fmt: skip
        self._add(vm, pid)
        await vm.watch(_started(vm, pid, started, lines), START_DEADLINE_S, f"start {words[0]}")

    async def run_agent(self, vm: LabVm, *overrides: str) -> None:
        """Run giveback's agent; `overrides` are settings as for `--set`. Raises VmError."""
        # The status of an earlier agent would pass for this one's.
        await self._exec(vm, "busybox", "rm", "-f", STATUS_PATH)
        pid = await start_agent(vm, lambda line: self._hear(vm, line), overrides)
        self._add(vm, pid)

    async def change(self, vm: LabVm, values: Mapping[str, str]) -> None:
        """Write kernel files in this order; each is restored at the end.

        Raises CannotRun if one is missing, refuses the value, or does not read back as written.
        """
        words = [f"{path}={value}" for path, value in values.items()]
        result = await self._exec(vm, "python3", GUEST_LAB, "strategy", "set", *words)
        for (path, value), line in zip(values.items(), result.lines, strict=False):
            before, after = _before_and_after(line)
            if before is not None:
                self._changed.append((vm, path, before))
                self._hear(vm, f"{path}: {before} -> {after}")
            if before is None or after != value:
                raise CannotRun(f"{vm.spec.name}: {path}={value}: {escape_for_terminal(line, 300)}")
        if len(result.lines) != len(words):
            raise CannotRun(f"{vm.spec.name}: {words[-1]}: {escape_for_terminal(result.text, 300)}")

    async def note_threads(self, vm: LabVm, name: str) -> None:
        """Count the guest's kernel threads whose name begins with `name` as the strategy's own."""
        script = f"busybox grep -ls '^{name}' /proc/[0-9]*/comm"
        found = await self._exec(vm, "sh", "-c", script)
        pids = [word.split("/")[2] for word in found.lines if word.count("/") == 3]
        for pid in pids:
            if pid.isdecimal():
                self._note(vm, int(pid))

    async def note_pid_in(self, vm: LabVm, path: str) -> None:
        """Count the process whose id is in this file of the guest. Raises CannotRun."""
        text = (await self._exec(vm, "cat", path)).text.strip()
        if not text.isdecimal():
            raise CannotRun(
                f"{vm.spec.name}: {path} is {escape_for_terminal(text)!r}: nothing was started"
            )
        self._note(vm, int(text))

    async def read(self, vm: LabVm, path: str) -> str:
        """Read a file of the guest. Raises CannotRun if it cannot be read."""
        result = await self._exec(vm, "cat", path)
        if result.code != 0:
            raise CannotRun(f"{vm.spec.name}: {escape_for_terminal(result.text)}")
        return result.text

    async def stop(self) -> None:
        """End the programs and restore what was changed; each failure is added to `problems`."""
        programs, self._programs = self._programs, []
        for vm, pid in programs:
            await self._or_problem(self._end(vm, pid))
        changed, self._changed = self._changed, []
        for vm in dict.fromkeys(vm for vm, _, _ in changed):
            # In reverse order: what was switched on last is switched off first.
            before = {path: value for where, path, value in changed[::-1] if where is vm}
            await self._or_problem(self.change(vm, before))
        self._changed.clear()

    async def _or_problem(self, work: Awaitable[object]) -> None:
        try:
            await work
        except VmError as error:
            self.problems.append(str(error))

    async def _end(self, vm: LabVm, pid: int) -> None:
        name = f"{vm.spec.name}: process {pid} of the strategy"
        if not await self._is_alive(vm, pid):
            self.problems.append(f"{name} had ended before its time; see its log")
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            await vm.watch(vm.guest.kill(pid, number), ANSWER_DEADLINE_S, f"end {pid}")
            if await self._is_gone_in(vm, pid, END_DEADLINE_S):
                return
        self.problems.append(f"{name} does not end")

    async def _is_gone_in(self, vm: LabVm, pid: int, seconds: float) -> bool:
        end_s = asyncio.get_running_loop().time() + seconds
        while await self._is_alive(vm, pid):
            if asyncio.get_running_loop().time() > end_s:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def _is_alive(self, vm: LabVm, pid: int) -> bool:
        return (await self._exec(vm, "ls", f"/proc/{pid}/exe")).code == 0

    async def _exec(self, vm: LabVm, *argv: str) -> ExecResult:
        return await vm.watch(vm.guest.exec(*argv), ANSWER_DEADLINE_S, argv[0])

    def _add(self, vm: LabVm, pid: int) -> None:
        self._programs.append((vm, pid))
        self._note(vm, pid)

    def _note(self, vm: LabVm, pid: int) -> None:
        name = vm.spec.name
        self.guest_pids[name] = (*self.guest_pids.get(name, ()), pid)

    def _hear(self, vm: LabVm, line: str) -> None:
        self._log.take(f"{vm.spec.name}: {line}")


async def _started(vm: LabVm, pid: int, started: asyncio.Event, lines: Sequence[str]) -> None:
    while not started.is_set():
        try:
            await asyncio.wait_for(started.wait(), 1.0)
        except TimeoutError:
            if (await vm.guest.exec("ls", f"/proc/{pid}/exe")).code != 0 and not started.is_set():
                said = "; ".join(lines[-LINES_IN_ERROR:])
                raise CannotRun(
                    f"{vm.spec.name}: it ended at its start: {escape_for_terminal(said, 300)}"
                ) from None


def _before_and_after(line: str) -> tuple[str | None, str | None]:
    """Parse the output of `strategy set` for one file; None if it could not be written."""
    said = parse_object(line)
    whole = "before" in said and "after" in said
    return (str(said["before"]), str(said["after"])) if whole else (None, None)


def guest_version(*programs: str) -> str:
    """Return the version of these modules of the guest's strategies, and of their shared ones."""
    folder = resources.files(GUEST_STRATEGIES)
    shared = ("__init__.py", "loop.py", "small.py")
    return content_key(*((folder / name).read_bytes() for name in (*programs, *shared)))


def of_program(
    name: str,
    title: str,
    source: str,
    files: Sequence[str],
    words: Sequence[str] = (),
    *,
    before: Mapping[str, str] = MappingProxyType({}),
    quiet_s: float = 0.0,
) -> Strategy:
    """Return a strategy that is a program of the guest, kept in these `files`.

    `words`, or its name, start it; the kernel files `before` are written first.
    """

    async def set_up(running: InGuests, vm: LabVm) -> None:
        if before:
            await running.change(vm, before)
        await running.run(vm, *(words or (name,)))

    return Strategy(
        name=name, title=title, source=source, start=in_guests(set_up),
        version=guest_version(*files), quiet_s=quiet_s,
    )  # fmt: skip


def in_guests(set_up: Callable[[InGuests, LabVm], Awaitable[None]]) -> Start:
    """Return a start function that runs `set_up` in each guest; after a failure it cleans up."""

    async def start(vms: Sequence[LabVm], host_bytes: int) -> Running:  # noqa: ARG001  # not its rule
        running = InGuests()
        try:
            for vm in vms:
                await set_up(running, vm)
        except BaseException:
            await running.stop()
            raise
        return running

    return start
