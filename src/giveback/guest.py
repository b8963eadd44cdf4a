"""The guest's side, from whoever answers: the agent, QEMU's guest agent, balloon statistics.

All of it is a guest's word: bounded in time and bytes, and checked by `giveback.pictures`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import replace

from giveback.channel import Lines, lines
from giveback.errors import VmError
from giveback.pictures import NO_GUEST, GuestPicture, Source, from_balloon, from_kernel_files
from giveback.vmm import answers
from giveback.vmm.base import Channel, ChannelKind, VmDescription, VmState
from giveback_agent.kernel.page_reporting import ORDER_PATH

_FILE_LIMIT_BYTES = 64 << 10
_UNASKED_LINES_LIMIT = 256


async def read_guest(
    vm: VmDescription, state: VmState, now_s: float, timeout_s: float = 0.5
) -> GuestPicture:
    """The best picture there is; its problems say why better sources gave none. Never raises."""
    problems: list[str] = []
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
    async with lines(channel, timeout_s) as session:
        if channel.kind is ChannelKind.QEMU_GUEST_AGENT:
            return await _ask_qemu_guest_agent(session)
        return await _ask_agent(session)


async def _ask_agent(session: Lines) -> GuestPicture:
    """Ask giveback's agent; its events for others are passed over."""
    await session.send(b'{"ask": "memory"}')
    for _ in range(_UNASKED_LINES_LIMIT):
        said = parse_object(await session.receive())
        if said.get("event") == "memory":
            return from_agent(said, Source.AGENT)
    raise VmError("the agent said much, and nothing of memory")


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
    )


async def _ask_qemu_guest_agent(session: Lines) -> GuestPicture:
    """Read the guest's kernel files through QEMU's guest agent, where it may open files."""
    token = int.from_bytes(os.urandom(4), "big")
    await session.send(_command("guest-sync", id=token))
    for _ in range(_UNASKED_LINES_LIMIT):
        if parse_object(await session.receive()).get("return") == token:
            break
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
        except binascii.Error as error:
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
