"""Messages between a reader process and its pool: a length, then that many bytes, perhaps a descriptor."""

from __future__ import annotations

import os
import socket
import struct

FRAME_LIMIT_BYTES = 2 << 20
"""Limit of a message: a command line of 256 KiB fits even if JSON writes each byte as six characters."""
_LENGTH = struct.Struct("!I")
_CHUNK_BYTES = 1 << 16


def framed(body: bytes) -> bytes:
    """Return the length followed by the body. Raises ValueError if the body is too long."""
    if len(body) > FRAME_LIMIT_BYTES:
        raise ValueError(f"an answer of {len(body)} bytes is too long")
    return _LENGTH.pack(len(body)) + body


def send(connection: socket.socket, body: bytes, fd: int = -1) -> None:
    """Send one message, with a descriptor if `fd` is not negative, over a blocking socket."""
    data = framed(body)
    if fd < 0:
        connection.sendall(data)
        return
    sent = socket.send_fds(connection, [data], [fd])
    connection.sendall(data[sent:])


class Incoming:
    """A buffer of received bytes and descriptors, from which whole messages are taken."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._fds: list[int] = []

    def receive(self, connection: socket.socket) -> bool:
        """Receive available bytes; return False if the peer has closed its end.

        Raises BlockingIOError if nothing is available, and ValueError if a message is too long.
        """
        try:
            data, fds, _, _ = socket.recv_fds(connection, _CHUNK_BYTES, 1)
        except ConnectionError:
            return False
        self._fds += fds
        self._data += data
        if len(self._fds) > 1 or self._length() > FRAME_LIMIT_BYTES:
            raise ValueError("its message is too long")
        return bool(data)

    def take(self) -> tuple[bytes, int] | None:
        """Return the next message and its descriptor (-1 if none), or None if it is not complete yet."""
        end = _LENGTH.size + self._length()
        if len(self._data) < _LENGTH.size or len(self._data) < end:
            return None
        body = bytes(self._data[_LENGTH.size : end])
        del self._data[:end]
        return body, self._fds.pop() if self._fds else -1

    def close(self) -> None:
        """Close the received descriptors that were not taken."""
        while self._fds:
            os.close(self._fds.pop())

    def _length(self) -> int:
        if len(self._data) < _LENGTH.size:
            return 0
        return int(_LENGTH.unpack_from(self._data)[0])
