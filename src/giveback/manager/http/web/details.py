"""Run `giveback explain` and `giveback doctor` as child processes for one VM, when its page is opened.

The daemon itself touches no VM because of a request. The commands read files of other users safely, and ask
the guest through the daemon. A child that hangs or writes too much is killed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from giveback.manager.http.api import ProblemError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from giveback.manager.model import VmStatus

AT_ONCE = 2
WAITING_MOST = 16
TIMEOUT_S = 30.0
KEPT_S = 10.0
KEPT_MOST = 64
OUTPUT_LIMIT_BYTES = 2 << 20
_WORDS_LIMIT = 300
_DOCTOR_FOUND = 1


class Details:
    """The results of both commands by VM; each is kept for KEPT_S, for all clients."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._kept: dict[str, tuple[float, dict[str, object]]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def of(self, vm: VmStatus, socket_path: str) -> dict[str, object]:
        """Return the results of both commands for this VM.

        Raises ProblemError if too many requests wait, or a command fails; its detail is the reason.
        """
        if self._waiting >= WAITING_MOST:
            raise ProblemError(503, "Busy", "too many VMs are being examined; try again soon")
        lock = self._locks.setdefault(vm.key, asyncio.Lock())
        self._waiting += 1
        try:
            async with lock:
                kept = self._kept.get(vm.key)
                if kept is not None and time.monotonic() - kept[0] < KEPT_S:
                    return kept[1]
                async with self._turns:
                    found = await self._asked(vm, socket_path)
                self._kept[vm.key] = time.monotonic(), found
        finally:
            self._waiting -= 1
            self._tidy()
        return found

    async def _asked(self, vm: VmStatus, socket_path: str) -> dict[str, object]:
        explained = await _told("explain", vm, socket_path)
        doctor = await _told("doctor", vm, socket_path)
        return {"key": vm.key, "explain": explained, "doctor": doctor}

    def _tidy(self) -> None:
        for key in list(self._kept)[: max(0, len(self._kept) - KEPT_MOST)]:
            del self._kept[key]
        self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}


async def _told(command: str, vm: VmStatus, socket_path: str) -> object:
    """Return the document of one command. Raises ProblemError."""
    process = _started(command, vm.pid, socket_path)
    try:
        said, complained = await asyncio.to_thread(_finished, process)
    except subprocess.TimeoutExpired as error:
        words = f"`giveback {command}` of this VM took more than {TIMEOUT_S:.0f} s"
        raise ProblemError(502, "The VM did not answer", words) from error
    finally:
        # Also where the request was cancelled: the thread ends with the child.
        process.kill()
    code = process.returncode
    if code not in (0, _DOCTOR_FOUND if command == "doctor" else 0):
        why = escape_for_terminal(complained.decode("utf-8", "replace").strip(), _WORDS_LIMIT)
        raise ProblemError(502, "Not known", why or f"`giveback {command}` ended with {code}")
    if len(said) > OUTPUT_LIMIT_BYTES:
        raise ProblemError(502, "Not known", f"`giveback {command}` said too much")
    try:
        return json.loads(said)
    except (ValueError, RecursionError) as error:
        raise ProblemError(502, "Not known", f"`giveback {command}` said no JSON") from error


def _started(command: str, pid: int, socket_path: str) -> subprocess.Popen[bytes]:
    # -P: nothing is imported from the folder that this runs in.
    words = (sys.executable, "-P", "-m", "giveback", command, "--json", "--pid", str(pid))
    return subprocess.Popen(
        (*words, "--socket", socket_path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd="/",
    )  # fmt: skip


def _finished(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Return what the child writes until it ends. Kills it and raises TimeoutExpired if it takes too long."""
    with process:
        try:
            return process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
