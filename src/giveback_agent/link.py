"""The agent's words to the host: one JSON line an event, over a virtio-serial port if there is one.

A host that does not listen, or no port at all, is normal: words are then lost and nothing waits.
JSON is made by hand here: importing `json` costs a megabyte.
"""

from __future__ import annotations

import os

from giveback_agent import files

PORT_NAME = "org.giveback.agent.0"
PORTS = "/sys/class/virtio-ports"


def quote(text: str) -> str:
    """Return `text` as a JSON string of plain ASCII."""
    out = []
    for character in text:
        code = ord(character)
        if character in '"\\':
            out.append("\\" + character)
        elif 32 <= code < 127:
            out.append(character)
        elif code <= 0xFFFF:
            out.append(f"\\u{code:04x}")
        else:
            code -= 0x10000
            out.append(f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
    return '"' + "".join(out) + '"'


def encode(value: object) -> str:
    """Return a JSON text of None, bools, numbers, strings, dicts and lists; anything else as a string."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(round(value, 6)) if value - value == 0 else "null"
    if isinstance(value, dict):
        return "{" + ",".join([f"{quote(str(k))}:{encode(v)}" for k, v in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([encode(v) for v in value]) + "]"
    return quote(str(value))


def find_port(root: str) -> str | None:
    """The device of the agent's virtio-serial port, or None where the VM has none."""
    try:
        names = os.listdir(files.under(root, PORTS))
    except OSError:
        return None
    for name in sorted(names):
        try:
            with open(files.under(root, f"{PORTS}/{name}/name")) as file:
                if file.read(256).strip() == PORT_NAME:
                    return files.under(root, f"/dev/{name}")
        except OSError:
            continue
    return None


class Link:
    """The way to the host; `send` never raises and never waits."""

    def __init__(self, root: str) -> None:
        self._fd = -1
        device = find_port(root)
        if device is not None:
            try:
                self._fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                self._fd = -1

    def send(self, **message: object) -> bool:
        """Send one event; False where no host took it."""
        if self._fd < 0:
            return False
        try:
            os.write(self._fd, encode(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the port."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
