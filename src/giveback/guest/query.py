"""The guest's side, from whoever answers: the agent, QEMU's guest agent, balloon statistics.

All of it is a guest's word: bounded in time and bytes, and checked by `giveback.accounting.usage`.
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
from giveback.guest.via_daemon import SILENT, borrow, borrow_pages
from giveback.vmm.base import Channel, ChannelKind, VmDescription, VmState
from giveback_kernel.escaping import escape_for_terminal

ALIVE_TIMEOUT_S = 3.0
"""How long an agent may take to show that it is there, before it is waited for so long."""
HOW_BY_FILE = "run `giveback-agent picture --pages` in the guest, and give --guest FILE"
OLD_DAEMON = (
    "giveback daemon holds the agent's port, and is too old to ask for pages: restart it "
    "(systemctl restart giveback-daemon)"
)
_NO_REPORT = "giveback daemon holds the agent's port, and has no report of it yet"
_SILENT_DAEMON = "giveback daemon may hold the agent's port, and does not answer in time"
_UNASKED_LINES_LIMIT = 256


class AgentBusyError(VmError):
    """An agent is there, and answers again in `again_s`: its answers may take a tenth of a CPU at most."""

    def __init__(self, text: str, again_s: float) -> None:
        super().__init__(text)
        self.again_s = again_s


_RETRY_LEAST_S, _RETRY_LIMIT_S = 0.02, 30.0


async def read_guest(
    vm: VmDescription,
    state: VmState,
    now_s: float,
    timeout_s: float = 0.5,
    by_cgroup: bool = False,
    patience_s: float = 0.0,
) -> GuestSnapshot:
    """The best picture there is; its problems say why better sources gave none. Never raises.

    `by_cgroup`: ask an agent also which service and container has what. An agent that was asked just before
    says when it answers again: so long it is waited for, but at most `patience_s`.
    """
    agent_is_there = False
    problems: list[str] = []
    lent = await borrow(vm, by_cgroup=by_cgroup)
    is_held = lent is not None and lent.get("held") is True
    if lent is not None and protocol.has_memory(lent):
        age_s, moved = lent.get("age_s"), lent.get("moved_bytes")
        guest = from_agent(lent, GuestSource.AGENT, age_s if isinstance(age_s, float) else 0.0)
        if guest.total_bytes is not None:
            return replace(guest, moved_bytes=moved if isinstance(moved, int) else None)
    if is_held:
        # Its port is the daemon's: whoever tries it, too, takes it away from there for a while.
        is_silent = lent is not None and lent.get(SILENT) is True
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


def _closed(channel: Channel) -> str:
    """Why a port is not asked: its VMM knows that nobody would answer, and waiting takes seconds."""
    wanted = (
        "qemu-guest-agent" if channel.kind is ChannelKind.QEMU_GUEST_AGENT else "giveback-agent"
    )
    return f"{where(channel)}: no program in the guest has opened this port: no {wanted} runs there"


async def _ask_patiently(
    channel: Channel, timeout_s: float, by_cgroup: bool, patience_s: float
) -> GuestSnapshot:
    """Ask, and once more where an agent says that it answers again within `patience_s`. Raises VmError."""
    try:
        return await _ask(channel, timeout_s, by_cgroup)
    except AgentBusyError as busy:
        if busy.again_s > patience_s:
            raise
        again_s = busy.again_s
    # Without the port meanwhile: others may need it.
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
    """What the agent says of each page (and of memory), where its port is not among the `closed`.

    Where the daemon is connected to the agent it asks for them: QEMU serves one client of a port, and who
    tries it takes it away. Raises VmError that says why it cannot.
    """
    problems = []
    lent = await borrow(vm)
    is_held = lent is not None and lent.get("held") is True
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
                # That it says when it answers again shows as well that it is there.
                with contextlib.suppress(AgentBusyError):
                    await ask_agent(channel, "memory", min(timeout_s, ALIVE_TIMEOUT_S))
                return await ask_agent(channel, "pages", timeout_s, by_cgroup=True)
            except VmError as error:
                problems.append(escape_for_terminal(str(error), 400))
    why = "; ".join(problems) or "the VM has no channel to an agent"
    raise VmError(f"{escape_for_terminal(vm.name)}: {why}. Instead: {HOW_BY_FILE}")


async def _pages_via_daemon(vm: VmDescription, timeout_s: float) -> dict[str, object]:
    """Ask the daemon for the pages, again where the agent says when. Raises VmError."""
    until_s = time.monotonic() + timeout_s
    while True:
        said = await borrow_pages(vm, max(0.0, until_s - time.monotonic()))
        if said is None:
            raise VmError("giveback daemon gave no answer")
        if isinstance(said.get("pages"), str):
            return said
        why, again_s = said.get("error"), said.get("again_s")
        if not isinstance(why, str):
            raise VmError(_SILENT_DAEMON if said.get(SILENT) is True else OLD_DAEMON)
        wait_s = again_s if isinstance(again_s, int | float) else _RETRY_LIMIT_S + 1
        if wait_s > _RETRY_LIMIT_S or time.monotonic() + wait_s > until_s:
            raise VmError(f"giveback daemon asked for its pages: {why}")
        await asyncio.sleep(max(_RETRY_LEAST_S, wait_s))


async def ask_agent(
    channel: Channel, ask: str, timeout_s: float, by_cgroup: bool = False
) -> dict[str, object]:
    """Ask giveback's agent for `memory` or `pages`; its events for others are passed over.

    An agent that is busy is asked again when it says so. Raises VmError; AgentBusyError where that is later.
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
                    f"{where(channel)}: the agent was asked just before, and answers again in "
                    f"{max(1.0, answer):.0f} s",
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
    raise VmError(f"the agent said much, and nothing of {ask}")


def _retry_s(refused: protocol.AskRefused) -> float:
    if refused.retry_s is None or refused.retry_s > _RETRY_LIMIT_S:
        raise VmError(f"the agent refuses: {refused.text}")
    return max(_RETRY_LEAST_S, refused.retry_s)
