"""The process that forks readers. It reads nothing that a stranger controls, so that it always responds.

It is forked before its parent has threads, connections or much memory. It is the readers' parent process, so
that the program neither waits for a reader that hangs nor forks while it has threads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import NoReturn

from giveback.host.readers import child

_MESSAGE_BYTES = 64
_END_S = 0.2
NEW, KILL = b"new", b"kill "


def start() -> tuple[socket.socket, int]:
    """Fork the starter; return the socket to it and its PID. Raises OSError."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        its.close()
        raise
    if pid == 0:
        ours.detach()
        _run(its)
    its.close()
    ours.setblocking(False)
    return ours, pid


def _run(connection: socket.socket) -> NoReturn:
    readers: set[int] = set()
    try:
        child.isolate("giveback-starter", connection)
        connection.setblocking(True)
        while message := connection.recv(_MESSAGE_BYTES):
            _reap(readers)
            if message == NEW:
                _new(connection, readers)
            elif message.startswith(KILL):
                pid = int(message.removeprefix(KILL))
                # The PID of a reader that was reaped may be reused by another process.
                if pid in readers:
                    os.kill(pid, signal.SIGKILL)
    finally:
        _end(readers)
        os._exit(0)


def _end(readers: set[int]) -> None:
    """Kill every reader; one that hangs is left to the init process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for pid in readers:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    _reap(readers)
    while readers and signal.sigtimedwait({signal.SIGCHLD}, _END_S) is not None:
        _reap(readers)


def _new(connection: socket.socket, readers: set[int]) -> None:
    """Fork a reader and answer with its PID and the socket to it; answer -1 if the fork fails."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, its:
        try:
            pid = os.fork()
        except OSError:
            connection.send(b"-1")
            return
        if pid == 0:
            child.serve(its)
        readers.add(pid)
        socket.send_fds(connection, [b"%d" % pid], [ours.fileno()])


def _reap(readers: set[int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            readers.discard(ended)
