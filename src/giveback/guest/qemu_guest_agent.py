"""Read a guest's kernel files through QEMU's guest agent. Source: qga/qapi-schema.json of QEMU."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING

from giveback.accounting.usage import GuestSnapshot, GuestSource, from_kernel_files
from giveback.errors import VmError
from giveback.guest.protocol import parse_object
from giveback.vmm.clients import answers
from giveback_kernel.page_reporting import ORDER_PATH

if TYPE_CHECKING:
    from giveback.guest.channel import LineStream

_FILE_LIMIT_BYTES = 64 << 10
_UNASKED_LINES_LIMIT = 256


async def ask(stream: LineStream) -> GuestSnapshot:
    """Read the guest's kernel files into a snapshot.

    Raises VmError if the agent does not answer, or is not allowed to open files.
    """
    token = int.from_bytes(os.urandom(4), "big")
    await stream.send(_command("guest-sync", id=token))
    for _ in range(_UNASKED_LINES_LIMIT):
        if parse_object(await stream.receive()).get("return") == token:
            break
    else:
        raise VmError(
            f"qemu-guest-agent sent {_UNASKED_LINES_LIMIT} lines, and no answer to guest-sync"
        )
    memory = await _guest_file(stream, "/proc/meminfo")
    buddy = await _guest_file(stream, "/proc/buddyinfo")
    try:
        order: int | None = int((await _guest_file(stream, ORDER_PATH))[:20])
    except (VmError, ValueError):
        order = None
    return from_kernel_files(memory, buddy, GuestSource.GUEST_AGENT, age_s=0.0, report_order=order)


async def _guest_file(stream: LineStream, path: str) -> bytes:
    handle = await _return(stream, "guest-file-open", path=path, mode="r")
    if not isinstance(handle, int):
        raise VmError(f"qemu-guest-agent opened {path} but returned no handle")
    data = b""
    while len(data) < _FILE_LIMIT_BYTES:
        part = answers.node(
            await _return(stream, "guest-file-read", handle=handle, count=_FILE_LIMIT_BYTES)
        )
        try:
            chunk = base64.b64decode(answers.text(part, "buf-b64", 2 * _FILE_LIMIT_BYTES))
        except ValueError as error:  # binascii.Error, or a character that is not even ASCII
            raise VmError(f"qemu-guest-agent's {path} is not base64") from error
        data += chunk
        if not chunk or answers.truth(part, "eof"):
            break
    await _return(stream, "guest-file-close", handle=handle)
    return data[:_FILE_LIMIT_BYTES]


async def _return(stream: LineStream, command: str, **arguments: object) -> object:
    await stream.send(_command(command, **arguments))
    said = parse_object(await stream.receive())
    if "return" not in said:
        why = answers.text(answers.node(said, "error"), "desc", 200)
        raise VmError(f"qemu-guest-agent refuses {command}: {why or 'no reason given'}")
    return said["return"]


def _command(name: str, **arguments: object) -> bytes:
    return json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"
