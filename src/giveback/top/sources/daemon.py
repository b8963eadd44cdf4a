"""Snapshots from the running daemon: its events say that something is new, its status says what.

The stream of events wakes; amounts come from `/v1/status`, at most every EVERY_S and less often where
an answer takes long. A daemon that is gone is tried again; `next` raises until it is back.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.guest.via_daemon import API_SOCKET
from giveback.manager.http.client import Client
from giveback.manager.http.requests import WITHIN_S
from giveback.reporters import reclaimed
from giveback.top.from_status import snapshot_of
from giveback.top.model import PlanPart, ReclaimPlan
from giveback.top.sources.host import HostSource, names_of
from giveback.top.status_text import explained, findings_of
from giveback.vmm.clients.sockets import short_path
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from giveback.manager.model import ReclaimResult
    from giveback.top.model import TopSnapshot, TopVm

EVERY_S = 1.0
_QUIET_S = 5.0
"""Without any event the status is asked for all the same."""
_RETRY_S = 1.0
_BUSY_PART = 0.05
"""Of a core, what asking and reading may take."""
_CONNECT_S = 5.0
_LINE_LIMIT_BYTES = 1 << 20


class DaemonSource:
    """One daemon, by its socket."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self.label = f"daemon {escape_for_terminal(socket_path, 60)}"
        self._client = Client(socket_path)
        self._owners: dict[int, str] = {}
        API_SOCKET.set(socket_path)
        self._host = HostSource()
        self._new = threading.Event()
        self._ended = threading.Event()
        self._listener: threading.Thread | None = None
        self._not_before_s = 0.0
        self._stream: socket.socket | None = None

    def next(self) -> TopSnapshot:
        """Wait for news, and return the daemon's status. Raises NoDaemonError, RefusedError."""
        if self._listener is None:
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
        else:
            self._new.wait(_QUIET_S)
        self._ended.wait(max(0.0, self._not_before_s - time.monotonic()))
        self._new.clear()
        began_s, cpu_s = time.monotonic(), time.thread_time()
        try:
            status = self._client.status()
            self._owners |= names_of((vm.uid for vm in status.vms), self._owners)
            return snapshot_of(status, self._owners)
        except BaseException:
            self._new.set()
            raise
        finally:
            now_s = time.monotonic()
            busy_s = (time.thread_time() - cpu_s) / _BUSY_PART
            # A daemon that takes long is not asked all the time, either.
            self._not_before_s = now_s + max(EVERY_S, busy_s, now_s - began_s)

    def explain(self, vm: TopVm, width: int) -> str:
        """Return what `giveback explain` prints, or if the VM cannot be asked from here, the status."""
        try:
            return self._host.explain(vm, width)
        except VmError as error:
            return f"{explained(vm, width)}{_why(error)}"

    def doctor(self, vm: TopVm) -> str:
        """Return what `giveback doctor` prints, or if the VM cannot be asked from here, the status."""
        try:
            return self._host.doctor(vm)
        except VmError as error:
            return f"{findings_of(vm)}{_why(error)}"

    def plan(self, goal_bytes: int, keys: tuple[str, ...]) -> ReclaimPlan:
        """Return the daemon's dry run."""
        return _plan_of(self._client.reclaim(goal_bytes, WITHIN_S, keys, dry_run=True))

    def reclaim(self, goal_bytes: int, keys: tuple[str, ...]) -> ReclaimPlan:
        """Reclaim within the daemon's usual time, and return what came."""
        return _plan_of(self._client.reclaim(goal_bytes, WITHIN_S, keys))

    def close(self) -> None:
        """End the stream of events and all waiting."""
        self._ended.set()
        self._new.set()
        self._host.close()
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        """Follow the daemon's events for ever: through its end, and its next start."""
        while not self._ended.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._follow()
            self._new.set()
            self._ended.wait(_RETRY_S)

    def _follow(self) -> None:
        with contextlib.closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = self._stream = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(_CONNECT_S)
            with short_path(self._path) as reachable:
                connection.sock.connect(reachable)
            connection.request("GET", "/v1/events")
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                return
            # The daemon sends a comment where all is quiet: this long a silence is its end.
            connection.sock.settimeout(4 * _CONNECT_S + 20.0)
            while not self._ended.is_set() and (line := answer.readline(_LINE_LIMIT_BYTES)):
                if line.startswith(b"event:"):
                    self._new.set()


def _why(error: VmError) -> str:
    return f"\n\nfrom the daemon's status: {escape_for_terminal(str(error), 300)}"


def _plan_of(result: ReclaimResult) -> ReclaimPlan:
    return ReclaimPlan(
        result.goal_bytes,
        result.most_bytes,
        tuple(
            PlanPart(
                escape_for_terminal(part.vm, 60), part.expected_bytes, part.returned_bytes,
                escape_for_terminal(part.words, 200),
            )
            for part in result.parts
        ),
        reclaimed.text(result),
    )  # fmt: skip
