"""A reader process: it has limits and only one descriptor, its socket, and runs the requested functions.

It is forked from the starter, which has no threads, and never returns.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from giveback.host.own_root import PinnedFile
from giveback.host.readers import frames, plain
from giveback_kernel.errors import GivebackError

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY_BYTES = 256 << 20
"""Address space that a reader may use in addition to that at its start."""
_OPEN_FILES = 256
_FILES_OF_ANYONE = 1 << 20
_OOM_SCORE = b"300"
"""With this score the OOM killer ends a reader before the process that uses it."""


def isolate(name: str, keep: socket.socket) -> None:
    """Detach this newly forked process from its parent: close descriptors, reset signal handlers and name.

    If an abandoned reader kept a pipe's writing end open, the pipe's reader would never see its end.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP):
        # A terminal sends these for the command; this process ends when its socket does.
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        if fd != keep.fileno():
            os.dup2(nothing, fd)
    os.closerange(3, keep.fileno())
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.closerange(max(3, keep.fileno() + 1), limit if limit > 0 else _FILES_OF_ANYONE)
    _write("/proc/self/comm", name.encode())


def serve(connection: socket.socket) -> NoReturn:
    """Answer requests until the socket is closed. Never returns."""
    try:
        isolate("giveback-reader", connection)
        _limit()
        connection.setblocking(True)
        incoming = frames.Incoming()
        while True:
            while (request := incoming.take()) is None:
                if not incoming.receive(connection):
                    os._exit(0)
            _answer(connection, request[0])
    finally:
        os._exit(1)


def _limit() -> None:
    """Limit this process's resources. Even if a limit cannot be set, the pool outside limits its time."""
    pages = int(_read("/proc/self/statm").split()[0])
    address_space = pages * resource.getpagesize() + MEMORY_BYTES
    for kind, value in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, value))
    _write("/proc/self/oom_score_adj", _OOM_SCORE)


def _answer(connection: socket.socket, request: bytes) -> None:
    """Run the request item by item and answer each at once, so that the pool knows at which one it hangs."""
    asked: Any = plain.decode(request)
    name, cpu_s, items = asked
    work = _function(name)
    for arguments in items:
        _limit_cpu(cpu_s)
        fd = -1
        body: object
        try:
            result = work(*arguments)
            kind = 0
            if isinstance(result, tuple) and result:
                match result[0]:
                    case socket.socket() as connected:
                        fd, result = connected.detach(), result[1]
                    case PinnedFile() as pinned:
                        kind, fd, result = 3, pinned.detach(), result[1]
            body = [kind, plain.pack(result)]
        except GivebackError as error:
            body = [1, str(error)[:4096]]
        except MemoryError:
            body = [1, f"needs more than {MEMORY_BYTES >> 20} MiB to be read"]
        except Exception as error:  # noqa: BLE001 - sent to the pool, which reports it
            body = [2, f"{type(error).__name__}: {error}"[:4096]]
        _send(connection, body, fd)


def _send(connection: socket.socket, body: object, fd: int) -> None:
    try:
        frames.send(connection, plain.encode(body), fd)
    except ValueError as error:
        frames.send(connection, plain.encode([1, str(error)]))
    finally:
        if fd >= 0:
            os.close(fd)


def _function(name: str) -> Callable[..., object]:
    module, _, function = name.partition(":")
    found: Callable[..., object] = getattr(importlib.import_module(module), function)
    return found


def _limit_cpu(more_s: float) -> None:
    """Limit the CPU time of the next item: RLIMIT_CPU counts since the process's start, in whole seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + more_s)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _write(path: str, text: bytes) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)
