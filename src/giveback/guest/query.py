"""Read the guest's side from the best source that answers: agent, QEMU's guest agent, balloon statistics.

A guest controls all of it: reading is bounded in time and bytes, and `giveback.accounting.usage` checks
the numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

from giveback.accounting.usage import NO_GUEST, GuestSnapshot, GuestSource, from_balloon
from giveback.errors import VmError
from giveback.guest import protocol, qemu_guest_agent
from giveback.guest.channel import LineStream, lines, where
from giveback.guest.page_answer import PAGES_LIMIT_CHARS, TIMEOUT_S
from giveback.guest.protocol import from_agent
from giveback.guest.via_daemon import SILENT, ask_daemon, ask_daemon_for_pages
from giveback.vmm.base import Channel, ChannelKind, VmDescription, VmState
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import span

ALIVE_TIMEOUT_S = 3.0
"""An agent must answer something within this time; only then is it given the long time for its pages."""
HOW_BY_FILE = (
    "run `giveback-agent picture --pages` in the guest, and pass its output by --guest FILE"
)
OLD_DAEMON = (
    "giveback daemon holds the agent's port, and is too old to ask for pages: restart it "
    "(systemctl restart giveback-daemon)"
)
_NO_REPORT = "giveback daemon holds the agent's port, and the agent has not sent a report yet"
_SILENT_DAEMON = "giveback daemon may hold the agent's port, and does not answer in time"
_UNASKED_LINES_LIMIT = 256


class AgentBusyError(VmError):
    """An agent that will answer again in `again_s` seconds: its answers may use a tenth of a CPU at most."""

    def __init__(self, text: str, again_s: float) -> None:
        super().__init__(text)
        self.again_s = again_s


_RETRY_LEAST_S, _RETRY_MOST_S = 0.02, 30.0


async def read_guest(
    vm: VmDescription,
    state: VmState,
    now_s: float,
    timeout_s: float = 0.5,
    by_cgroup: bool = False,
    patience_s: float = 0.0,
) -> GuestSnapshot:
    """Return the snapshot of the best source; its problems say why better sources failed. Never raises.

    `by_cgroup` asks an agent also for memory by service and container. An agent that was asked shortly
    before says when it will answer again: this waits until then, but at most `patience_s`.
    """
    agent_is_there = False
    problems: list[str] = []
    proxied = await ask_daemon(vm, by_cgroup=by_cgroup)
    is_held = proxied is not None and proxied.get("held") is True
    if proxied is not None and protocol.has_memory(proxied):
        age_s, moved = proxied.get("age_s"), proxied.get("moved_bytes")
        guest = from_agent(proxied, GuestSource.AGENT, age_s if isinstance(age_s, float) else 0.0)
        if guest.total_bytes is not None:
            return replace(guest, moved_bytes=moved if isinstance(moved, int) else None)
    if is_held:
        # A connection from here would take the port away from the daemon for a while.
        is_silent = proxied is not None and proxied.get(SILENT) is True
        problems.append(_SILENT_DAEMON if is_silent else _NO_REPORT)
    for channel in sorted(vm.channels, key=lambda c: c.kind is ChannelKind.QEMU_GUEST_AGENT):
        if is_held and channel.kind is not ChannelKind.QEMU_GUEST_AGENT:
            continue
        if channel.path in state.closed_ports:
            problems.append(_closed(channel))
            continue
        try:
            guest = await _ask_patiently(channel, timeout_s, by_cgroup, patience_s)
        except VmError as error:
            agent_is_there = agent_is_there or isinstance(error, AgentBusyError)
            agent_is_there = agent_is_there or _is_held_open(channel, state, error)
            problems.append(str(error))
            continue
        if guest.total_bytes is not None:
            return guest
        problems += guest.problems
    if state.statistics is not None:
        guest = from_balloon(state.statistics, now_s)
        problems += guest.problems
    else:
        guest = NO_GUEST
    return replace(guest, problems=tuple(problems), agent_is_there=agent_is_there)


def _is_held_open(channel: Channel, state: VmState, error: VmError) -> bool:
    """Tell whether a program in the guest has the port open, by the VMM, and only does not answer in time."""
    told = state.running is not None and channel.kind is ChannelKind.VIRTIO_SERIAL
    return told and isinstance(error.__cause__, TimeoutError)


def _closed(channel: Channel) -> str:
    """Return why a port is not asked: its VMM knows that no program would answer; a wait costs seconds."""
    wanted = (
        "qemu-guest-agent" if channel.kind is ChannelKind.QEMU_GUEST_AGENT else "giveback-agent"
    )
    return f"{where(channel)}: no program in the guest has opened this port: no {wanted} runs there"


async def _ask_patiently(
    channel: Channel, timeout_s: float, by_cgroup: bool, patience_s: float
) -> GuestSnapshot:
    """Ask, and once more if the agent says that it answers again within `patience_s`. Raises VmError."""
    try:
        return await _ask(channel, timeout_s, by_cgroup)
    except AgentBusyError as busy:
        if busy.again_s > patience_s:
            raise
        again_s = busy.again_s
    # The port is free during the wait, because other programs may need it.
    await asyncio.sleep(again_s)
    return await _ask(channel, timeout_s, by_cgroup)


async def _ask(channel: Channel, timeout_s: float, by_cgroup: bool) -> GuestSnapshot:
    if channel.kind is ChannelKind.QEMU_GUEST_AGENT:
        async with lines(channel, timeout_s) as stream:
            return await qemu_guest_agent.ask(stream)
    said = await ask_agent(channel, "memory", timeout_s, by_cgroup)
    return from_agent(said, GuestSource.AGENT)


async def read_pages(
    vm: VmDescription, timeout_s: float = TIMEOUT_S, closed: frozenset[str] = frozenset()
) -> dict[str, object]:
    """Ask the agent for the use of each page and for its memory report; skip ports in `closed`.

    If a daemon is connected to the agent, the daemon asks: QEMU serves one client of a port, and a
    connection from here would take it away. Raises VmError with the reason if no agent answers.
    """
    problems = []
    proxied = await ask_daemon(vm)
    is_held = proxied is not None and proxied.get("held") is True
    if is_held:
        try:
            return await _pages_via_daemon(vm, timeout_s)
        except VmError as error:
            problems.append(escape_for_terminal(str(error), 400))
    for channel in () if is_held else vm.channels:
        if channel.path in closed:
            problems.append(_closed(channel))
        elif channel.kind is not ChannelKind.QEMU_GUEST_AGENT:
            try:
                # An agent that only says when it answers again has shown that it is there, too.
                with contextlib.suppress(AgentBusyError):
                    await ask_agent(channel, "memory", min(timeout_s, ALIVE_TIMEOUT_S))
                return await ask_agent(channel, "pages", timeout_s, by_cgroup=True)
            except VmError as error:
                problems.append(escape_for_terminal(str(error), 400))
    why = "; ".join(problems) or "the VM has no channel to an agent"
    raise VmError(f"{escape_for_terminal(vm.name)}: {why}. Instead: {HOW_BY_FILE}")


async def _pages_via_daemon(vm: VmDescription, timeout_s: float) -> dict[str, object]:
    """Ask the daemon for the pages; ask again at the time that the agent names. Raises VmError."""
    until_s = time.monotonic() + timeout_s
    while True:
        said = await ask_daemon_for_pages(vm, max(0.0, until_s - time.monotonic()))
        if said is None:
            raise VmError("giveback daemon did not answer")
        if isinstance(said.get("pages"), str):
            return said
        why, again_s = said.get("error"), said.get("again_s")
        if not isinstance(why, str):
            raise VmError(_SILENT_DAEMON if said.get(SILENT) is True else OLD_DAEMON)
        wait_s = again_s if isinstance(again_s, int | float) else None
        if wait_s is None or wait_s > _RETRY_MOST_S or time.monotonic() + wait_s > until_s:
            raise VmError(f"giveback daemon could not get the guest's pages: {why}{_when(wait_s)}")
        await asyncio.sleep(max(_RETRY_LEAST_S, wait_s))


async def ask_agent(
    channel: Channel, ask: str, timeout_s: float, by_cgroup: bool = False
) -> dict[str, object]:
    """Ask giveback's agent for `memory` or `pages`; ignore events that do not answer this request.

    A busy agent is asked again at the time that it names. Raises AgentBusyError if that is after
    `timeout_s`, and VmError if it does not answer or refuses.
    """
    until_s = time.monotonic() + timeout_s
    async with lines(channel, timeout_s) as stream:
        while True:
            number = protocol.new_id()
            await stream.send(protocol.ask(ask, number, by_cgroup))
            answer = await _answer(stream, ask, number)
            if isinstance(answer, dict):
                return answer
            if time.monotonic() + answer >= until_s:
                raise AgentBusyError(
                    f"{where(channel)}: the agent was asked shortly before, and answers again in "
                    f"{span(max(1.0, answer))}",
                    answer,
                )
            await asyncio.sleep(answer)


async def _answer(stream: LineStream, ask: str, number: int) -> dict[str, object] | float:
    """Return the answer with this number, or how long to wait before asking again."""
    memory: dict[str, object] | None = None
    parts: list[str] = []
    chars = unasked = 0
    while unasked < _UNASKED_LINES_LIMIT:
        match protocol.parse(await stream.receive()):
            case protocol.AskRefused(id=id_) as refused if id_ == number:
                return _retry_s(refused)
            case protocol.MemoryReport(id=id_, said=said) if id_ == number:
                if ask == "memory":
                    return said
                memory = said
            case protocol.Pages(id=id_, part=part, of=of, data=data) if (
                id_ == number and memory is not None and part == len(parts)
            ):
                parts.append(data)
                chars += len(data)
                if chars > PAGES_LIMIT_CHARS:
                    raise VmError(f"the agent's pages take more than {PAGES_LIMIT_CHARS} bytes")
                if of == len(parts):
                    return memory | {"pages": "".join(parts)}
            case _:
                unasked += 1
    raise VmError(f"the agent sent {_UNASKED_LINES_LIMIT} lines, and no answer to {ask}")


def _retry_s(refused: protocol.AskRefused) -> float:
    if refused.retry_s is None or refused.retry_s > _RETRY_MOST_S:
        raise VmError(f"the agent refuses: {refused.text}{_when(refused.retry_s)}")
    return max(_RETRY_LEAST_S, refused.retry_s)


def _when(again_s: float | None) -> str:
    """Return the end of a refusal: when asking again helps, if the agent named a time."""
    return "" if again_s is None else f"; it answers again in {span(max(1.0, again_s))}"
