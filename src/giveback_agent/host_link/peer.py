"""One open channel to the host: bounded lines in, whole lines out, without waiting.

The host may be absent or slow, may send too much or send invalid data. None of that may block the agent or
increase its memory.
"""

from __future__ import annotations

import os
import select

from giveback_agent.host_link.json_lines import REQUEST_LIMIT_BYTES

READ_LIMIT_BYTES = 16 << 10
"""The most bytes read at a time; after more, the host is ignored for a second."""
LINES_LIMIT = 64
HELD_LIMIT = 32
"""The most events kept while an answer is being written; the oldest are dropped first."""


class HostPeer:
    """A file descriptor to the host. `lasting`: end of file means only that the host's client left.

    `held` is True while another process writes an answer here: lines to send wait until it is done.
    """

    def __init__(self, fd: int, lasting: bool) -> None:
        self.fd = fd
        self.gone = False
        self.held = False
        self.quiet_until_s = 0.0
        self.is_flooding = False
        self._lasting = lasting
        self._partial = b""
        self._dropping = False
        self._rest = b""
        self._queue: list[bytes] = []

    def receive(self) -> list[bytes]:
        """Return the complete lines received, without line ends; lines that are too long are dropped."""
        data = self._read()
        if self._dropping:
            _, end, data = data.partition(b"\n")
            if not end:
                return []
            self._dropping = False
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        if len(self._partial) > REQUEST_LIMIT_BYTES:
            self._partial, self._dropping = b"", True
        if len(lines) > LINES_LIMIT:
            self.is_flooding = True
        return [line for line in lines[:LINES_LIMIT] if 0 < len(line) <= REQUEST_LIMIT_BYTES]

    def _read(self) -> bytes:
        chunks: list[bytes] = []
        left = READ_LIMIT_BYTES
        self.is_flooding = False
        while left > 0:
            try:
                chunk = os.read(self.fd, min(left, 4096))
            except (BlockingIOError, InterruptedError):
                return b"".join(chunks)
            except OSError:
                self.gone = True
                return b"".join(chunks)
            if not chunk:
                # virtio-serial without a host: drop the unfinished line of an earlier client.
                self.gone = not self._lasting
                self._partial, self._dropping = b"", False
                return b"".join(chunks)
            chunks.append(chunk)
            left -= len(chunk)
        self.is_flooding = True
        return b"".join(chunks)

    def send(self, line: bytes) -> bool:
        """Send a line now, or keep it while an answer is being written; return False if it is dropped."""
        if not line or self.gone:
            return False
        if self.held:
            self._queue = [*self._queue[1 - HELD_LIMIT :], line]
            return True
        return self.flush() and self._write(line)

    def flush(self) -> bool:
        """Send the lines that are left over; return whether none is left now."""
        if self.held or self.gone:
            return False
        if self._rest:
            rest, self._rest = self._rest, b""
            if not self._write(rest) or self._rest:
                self._rest = self._rest or rest
                return False
        queue, self._queue = self._queue, []
        for line in queue:
            if self._rest or not self._write(line):
                break
        return not self._rest

    def has_room(self) -> bool:
        """Tell whether the host reads: lines that are left over are sent first."""
        if not self.flush():
            return False
        waiting = select.poll()
        waiting.register(self.fd, select.POLLOUT)
        return waiting.poll(0) == [(self.fd, select.POLLOUT)]

    def end_line(self) -> None:
        """End a line that a killed process may have left unfinished."""
        self.send(b"\n")

    def _write(self, data: bytes) -> bool:
        try:
            sent = os.write(self.fd, data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.gone = True
            return False
        self._rest = data[sent:]
        return True

    def close(self) -> None:
        """Close the descriptor."""
        self.gone = True
        try:
            os.close(self.fd)
        except OSError:
            pass
