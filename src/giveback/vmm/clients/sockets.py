"""Unix sockets with paths of any length, connected without blocking."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import NOT_OPENED, InputError, VmError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

_SUN_PATH_BYTES = 107


def connect_unix(path: str) -> socket.socket:
    """Return a connected, non-blocking stream socket. Raises VmError with the remedy.

    A path longer than the kernel's 107 bytes is reached through its folder's descriptor.
    """
    try:
        with short_path(path) as reachable:
            return connected(reachable)
    except OSError as error:
        raise VmError(f"{path}: {reason(error)}") from error
    except ValueError as error:
        # The path has a NUL, or a surrogate that a file name cannot have.
        raise VmError(f"{escape_for_terminal(path)}: not a valid file name") from error


def connected(path: str | bytes) -> socket.socket:
    """Return a non-blocking stream socket connected to a path, or to an abstract name given as bytes.

    Raises OSError, and ValueError if the text is not a valid file name.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.setblocking(False)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """Yield `path`, or a shorter path to the same file that is valid within the context.

    Raises OSError, and ValueError if the text is not a valid file name.
    """
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def reason(error: OSError) -> str:
    """Return the text of an error: what is wrong with a socket, and what to do about it."""
    if isinstance(error, PermissionError):
        return NOT_OPENED
    if isinstance(error, (FileNotFoundError, ProcessLookupError)):
        return "no such socket; was it deleted, or has the VM ended?"
    if isinstance(error, ConnectionRefusedError):
        return "no program listens there any more"
    if isinstance(error, BlockingIOError):
        return "its queue of waiting clients is full: another program holds it"
    return error.strerror or str(error)


def remove_stale(path: str) -> None:
    """Delete a socket's file that no process listens at.

    Raises InputError if a process answers or the file is not a socket, and OSError.
    """
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise InputError(f"{path}: this file is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            Path(path).unlink(missing_ok=True)
            return
        except (BlockingIOError, TimeoutError):
            pass  # Only a live listener has a full queue.
    raise InputError(
        f"{path}: another daemon answers here; stop it, or choose a socket in another folder"
    )


def each_closed(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]],
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """Return a callback for asyncio's servers that runs `serve` for each client, then closes the connection.

    A `serve` that is given to the server itself may be cancelled before it begins, and closes nothing then.
    """
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)

        def end(ended: asyncio.Task[None]) -> None:
            tasks.discard(ended)
            if not ended.cancelled() and ended.exception() is None:
                # What was written is still sent.
                writer.close()
                return
            writer.transport.abort()
            if not ended.cancelled():
                why = {"message": "a client could not be served", "exception": ended.exception()}
                asyncio.get_running_loop().call_exception_handler(why)

        task.add_done_callback(end)

    return accept
