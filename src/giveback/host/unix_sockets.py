"""Who waits at which socket: QEMU serves one client of a port, the next ones wait without a word.

Source: unix_seq_show() in net/unix/af_unix.c: state 03 is a connection that was taken, 02 one that
was not yet; both of the server's side bear the socket's path.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from giveback_kernel.files import under

TABLE = "/proc/net/unix"
_TABLE_LIMIT_BYTES = 32 << 20
_ENTRY = re.compile(
    rb"^[0-9a-f]+: [0-9A-F]{8} [0-9A-F]{8} [0-9A-F]{8} \d{4} (0[23]) +\d+ (/.*)$", re.MULTILINE
)
_OWN_VIEW = re.compile(r"^.*?/proc/\d+/(?:root|cwd/)")


@dataclass(frozen=True, slots=True)
class Queues:
    """Paths of sockets that serve somebody, and those where somebody waits."""

    served: frozenset[bytes] = frozenset()
    waited_for: frozenset[bytes] = frozenset()

    def serves(self, path: str) -> bool:
        return bound(path) in self.served

    def has_waiting(self, path: str) -> bool:
        """Whether one is served there and another waits."""
        key = bound(path)
        return key in self.served and key in self.waited_for


def bound(path: str) -> bytes:
    """The path as its server knows it: without the way through /proc to another's view."""
    return os.fsencode(_OWN_VIEW.sub("", path))


def parse(text: bytes) -> Queues:
    """`/proc/net/unix`."""
    found: dict[bytes, set[bytes]] = {b"02": set(), b"03": set()}
    for state, path in _ENTRY.findall(text):
        found[state].add(path)
    return Queues(frozenset(found[b"03"]), frozenset(found[b"02"]))


def read(root: str = "/") -> Queues:
    """The host's queues now; none where they cannot be read."""
    chunks: list[bytes] = []
    try:
        with open(under(root, TABLE), "rb", buffering=0) as file:  # noqa: PTH123
            while (chunk := file.read(1 << 18)) and len(chunks) < _TABLE_LIMIT_BYTES >> 18:
                chunks.append(chunk)
    except OSError:
        return Queues()
    return parse(b"".join(chunks))
