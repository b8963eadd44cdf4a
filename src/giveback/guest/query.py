"""The guest's side, from whoever answers: the agent, QEMU's guest agent, balloon statistics.

All of it is a guest's word: bounded in time and bytes, and checked by `giveback.accounting.usage`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from dataclasses import replace

from giveback.accounting.usage import (
    NO_GUEST,
    GuestPicture,
    Source,
    from_balloon,
    from_kernel_files,
)
from giveback.errors import VmError
from giveback.guest.channel import Lines, lines
from giveback.guest.via_daemon import borrow
from giveback.text import shown
from giveback.vmm.base import Channel, ChannelKind, VmDescription, VmState
from giveback.vmm.clients import answers
from giveback_agent.host_link import json_lines
from giveback_kernel.page_reporting import ORDER_PATH

PAGES_TIMEOUT_S = 150.0
"""What the agent gives itself for them, and some more."""
ALIVE_TIMEOUT_S = 3.0
"""How long an agent may take to show that it is there, before it is waited for so long."""
HOW_BY_FILE = "run `giveback-agent picture --pages` in the guest, and give --guest FILE"
_FILE_LIMIT_BYTES = 64 << 10
_UNASKED_LINES_LIMIT = 256
_PARTS_LIMIT = 4096
_PAGES_LIMIT_CHARS = 16 << 20
_RETRY_LIMIT_S = 30.0


async def read_guest(
    vm: VmDescription, state: VmState, now_s: float, timeout_s: float = 0.5
) -> GuestPicture:
    """The best picture there is; its problems say why better sources gave none. Never raises."""
    problems: list[str] = []
    lent = await borrow(vm)
    if lent is not None:
        age_s = lent.get("age_s")
        guest = from_agent(lent, Source.AGENT, age_s if isinstance(age_s, float) else 0.0)
        if guest.total_bytes is not None:
            return guest
    for channel in sorted(vm.channels, key=lambda c: c.kind is ChannelKind.QEMU_GUEST_AGENT):
        try:
            guest = await _ask(channel, timeout_s)
        except VmError as error:
            problems.append(str(error))
            continue
        if guest.total_bytes is not None:
            return guest
        problems += guest.problems
    if state.statistics is not None:
        guest = from_balloon(state.statistics, now_s)
        return replace(guest, problems=(*problems, *guest.problems))
    return replace(NO_GUEST, problems=tuple(problems))


async def _ask(channel: Channel, timeout_s: float) -> GuestPicture:
    if channel.kind is ChannelKind.QEMU_GUEST_AGENT:
        async with lines(channel, timeout_s) as session:
            return await _ask_qemu_guest_agent(session)
    return from_agent(await ask_agent(channel, "memory", timeout_s), Source.AGENT)


async def read_pages(vm: VmDescription, timeout_s: float = PAGES_TIMEOUT_S) -> dict[str, object]:
    """What the agent says of each page (and of memory). Raises VmError that says why it cannot."""
    problems = []
    for channel in vm.channels:
        if channel.kind is not ChannelKind.QEMU_GUEST_AGENT:
            try:
                await ask_agent(channel, "memory", min(timeout_s, ALIVE_TIMEOUT_S))
                return await ask_agent(channel, "pages", timeout_s)
            except VmError as error:
                problems.append(shown(str(error), 400))
    if await borrow(vm) is not None:
        problems.append("giveback daemon holds the agent's port: stop it meanwhile")
    why = "; ".join(problems) or "the VM has no channel to an agent"
    raise VmError(f"{shown(vm.name)}: {why}. Instead: {HOW_BY_FILE}")


async def ask_agent(channel: Channel, ask: str, timeout_s: float) -> dict[str, object]:
    """Ask giveback's agent for `memory` or `pages`; its events for others are passed over.

    An agent that is busy is asked again when it says so. Raises VmError.
    """
    async with lines(channel, timeout_s) as session:
        while True:
            number = int.from_bytes(os.urandom(4), "big")
            # The empty line ends what a client before us may have left unfinished.
            request = {"v": json_lines.VERSION, "ask": ask, "id": number}
            await session.send(b"\n" + json.dumps(request).encode())
            answer = await _answer(session, ask, number)
            if isinstance(answer, dict):
                return answer
            await asyncio.sleep(answer)


async def _answer(session: Lines, ask: str, number: int) -> dict[str, object] | float:
    """The answer with this number, or how long to wait before asking again."""
    memory: dict[str, object] = {}
    parts: list[str] = []
    chars = unasked = 0
    while unasked < _UNASKED_LINES_LIMIT:
        said = parse_object(await session.receive())
        event = said.get("event") if said.get("id") == number else None
        if event == "error":
            return _retry_s(said)
        if event == "memory":
            memory = said
            if ask == "memory":
                return memory
        elif event == "pages" and memory and said.get("part") == len(parts) < _PARTS_LIMIT:
            parts.append(answers.text(said, "data", _FILE_LIMIT_BYTES))
            chars += len(parts[-1])
            if chars > _PAGES_LIMIT_CHARS:
                raise VmError(f"the agent's pages take more than {_PAGES_LIMIT_CHARS} bytes")
            if said.get("of") == len(parts):
                return memory | {"pages": "".join(parts)}
        else:
            unasked += 1
    raise VmError(f"the agent said much, and nothing of {ask}")


def _retry_s(said: dict[str, object]) -> float:
    retry_s = said.get("retry_s")
    if isinstance(retry_s, (int, float)) and 0 <= retry_s <= _RETRY_LIMIT_S:
        return max(0.02, float(retry_s))
    raise VmError(f"the agent refuses: {shown(answers.text(said, 'text', 400), 400)}")


def parse_object(line: bytes | str) -> dict[str, object]:
    """A line of JSON as an object; {} for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def from_agent(said: dict[str, object], source: Source, age_s: float = 0.0) -> GuestPicture:
    """The agent's `memory` event, as `giveback-agent picture` prints it: kernel files' text."""
    order = said.get("report_order")
    reporting = said.get("reporting")
    page = answers.size(said, "page_bytes")
    return from_kernel_files(
        answers.text(said, "meminfo", _FILE_LIMIT_BYTES).encode("utf-8", "replace"),
        answers.text(said, "buddyinfo", _FILE_LIMIT_BYTES).encode("utf-8", "replace"),
        source,
        age_s=age_s,
        report_order=order if isinstance(order, int) and not isinstance(order, bool) else None,
        reporting=reporting if isinstance(reporting, bool) else None,
        page_bytes=page if page in (4096, 16384, 65536) else 4096,
        pcp_bytes=answers.size(said, "pcp_bytes"),
        compressed_swap_bytes=answers.size(said, "compressed_swap_bytes"),
    )


async def _ask_qemu_guest_agent(session: Lines) -> GuestPicture:
    """Read the guest's kernel files through QEMU's guest agent, where it may open files."""
    token = int.from_bytes(os.urandom(4), "big")
    await session.send(_command("guest-sync", id=token))
    for _ in range(_UNASKED_LINES_LIMIT):
        if parse_object(await session.receive()).get("return") == token:
            break
    else:
        raise VmError("qemu-guest-agent said much, and nothing to guest-sync")
    memory = await _guest_file(session, "/proc/meminfo")
    buddy = await _guest_file(session, "/proc/buddyinfo")
    try:
        order: int | None = int((await _guest_file(session, ORDER_PATH))[:20])
    except (VmError, ValueError):
        order = None
    return from_kernel_files(
        memory,
        buddy,
        Source.GUEST_AGENT,
        age_s=0.0,
        report_order=order if order is not None and order >= 0 else None,
    )


async def _guest_file(session: Lines, path: str) -> bytes:
    handle = await _return(session, "guest-file-open", path=path, mode="r")
    if not isinstance(handle, int):
        raise VmError(f"qemu-guest-agent opens {path}, but gives no handle")
    data = b""
    while len(data) < _FILE_LIMIT_BYTES:
        part = answers.node(
            await _return(session, "guest-file-read", handle=handle, count=_FILE_LIMIT_BYTES)
        )
        try:
            chunk = base64.b64decode(answers.text(part, "buf-b64", 2 * _FILE_LIMIT_BYTES))
        except ValueError as error:  # binascii.Error, or a character that is not even ASCII
            raise VmError(f"qemu-guest-agent's {path} is no base64") from error
        data += chunk
        if not chunk or answers.truth(part, "eof"):
            break
    await _return(session, "guest-file-close", handle=handle)
    return data[:_FILE_LIMIT_BYTES]


async def _return(session: Lines, command: str, **arguments: object) -> object:
    await session.send(_command(command, **arguments))
    said = parse_object(await session.receive())
    if "return" not in said:
        why = answers.text(answers.node(said, "error"), "desc", 200)
        raise VmError(f"qemu-guest-agent refuses {command}: {why or 'no reason given'}")
    return said["return"]


def _command(name: str, **arguments: object) -> bytes:
    return json.dumps({"execute": name, "arguments": arguments}).encode()
