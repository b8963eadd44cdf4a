"""The client of the running daemon over its unix socket, for the commands that ask it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urlencode

import httpx2
from pydantic import ValidationError

from giveback.errors import InputError
from giveback.manager.history.records import HistoryFrame, HistorySpan
from giveback.manager.history.usage.totals import UsageReport
from giveback.manager.http.answers import Problem, UrgencySet, adapter_of
from giveback.manager.model import DaemonStatus, ReclaimResult
from giveback.vmm.clients.sockets import short_path
from giveback_kernel.errors import GivebackError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from typing import TypeVar

    Answer = TypeVar("Answer")

ANSWER_LIMIT_BYTES = 64 << 20
TIMEOUT_S = 10.0
NO_DAEMON = 3


class NoDaemonError(GivebackError):
    """No daemon answers at the socket."""

    exit_code = NO_DAEMON


class RefusedError(GivebackError):
    """The daemon refused the request; the message says what to do."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Client:
    """A client that sends one request at a time.

    Its methods raise NoDaemonError, RefusedError, or InputError if the request is wrong.
    """

    def __init__(self, socket_path: str, timeout_s: float = TIMEOUT_S) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s

    def status(self) -> DaemonStatus:
        """Return all that the daemon knows now."""
        return self._asked(DaemonStatus, "GET", "/v1/status")

    def history(self, from_s: int, to_s: int, vm: str | None = None) -> HistorySpan:
        """Return the records between two wall times, as `giveback.manager.history.reader.read` does."""
        query = {"from": str(from_s), "to": str(to_s), **({"vm": vm} if vm else {})}
        return self._asked(HistorySpan, "GET", f"/v1/history?{urlencode(query)}")

    def frame(self, at_s: int) -> HistoryFrame:
        """Return all VMs at one moment, as `giveback.manager.history.frames.frame` does."""
        return self._asked(HistoryFrame, "GET", f"/v1/history/frame?at={at_s}")

    def usage(self, from_s: int, to_s: int) -> UsageReport:
        """Return what VMs used between two wall times; the daemon has the prices."""
        return self._asked(UsageReport, "GET", f"/v1/usage?from={from_s}&to={to_s}")

    def reclaim(
        self, goal_bytes: int, within_s: float, vms: Sequence[str] = (), *, dry_run: bool = False
    ) -> ReclaimResult:
        """Free memory, and return the result once the goal is reached or the time is over.

        `dry_run`: return at once what would be asked of which VM.
        """
        body: dict[str, object] = {
            "goal_bytes": goal_bytes, "within_s": within_s, "vms": list(vms), "dry_run": dry_run,
        }  # fmt: skip
        return self._asked(ReclaimResult, "POST", "/v1/reclaim", body, within_s)

    def set_urgency(self, vm: str, urgency: int, lease_s: float) -> UrgencySet:
        """Set the urgency of the VM with this name or key for `lease_s` seconds."""
        body = {"urgency": urgency, "lease_s": lease_s}
        return self._asked(UrgencySet, "POST", f"/v1/vms/{quote(vm, safe='')}/urgency", body)

    def _asked(
        self,
        kind: type[Answer],
        method: str,
        resource: str,
        body: object = None,
        longer_s: float = 0.0,
    ) -> Answer:
        status, data = self._answer(method, resource, body, self._timeout_s + longer_s)
        if status == httpx2.codes.OK:
            return self._decoded(kind, data)
        words = escape_for_terminal(self._decoded(Problem, data).detail, 500)
        if status in (400, 404, 409, 413):
            raise InputError(words)
        raise RefusedError(status, words)

    def _decoded(self, kind: type[Answer], data: bytes) -> Answer:
        try:
            found: Answer = adapter_of(cast("Hashable", kind)).validate_json(data)
        except ValidationError as error:
            raise NoDaemonError(
                f"{self._path}: the answer is not one of a giveback daemon of this version: "
                "restart the daemon if giveback was upgraded"
            ) from error
        return found

    def _answer(
        self, method: str, resource: str, body: object, timeout_s: float
    ) -> tuple[int, bytes]:
        self._reach(timeout_s)
        try:
            with (
                short_path(self._path) as reachable,
                # verify=False: plain HTTP needs no certificates, and reading them takes 30 ms or more.
                httpx2.Client(
                    transport=httpx2.HTTPTransport(uds=reachable, verify=False), timeout=timeout_s
                ) as client,
                client.stream(
                    method, f"http://localhost{resource}",
                    json=body if method == "POST" else None,
                ) as response,
            ):  # fmt: skip
                return response.status_code, _read(response, self._path)
        except httpx2.TimeoutException as error:
            raise NoDaemonError(
                f"{self._path}: no answer in {timeout_s:g} s; is the daemon stopped?"
            ) from error
        except httpx2.HTTPError as error:
            words = escape_for_terminal(str(error), 200)
            raise NoDaemonError(
                f"{self._path}: the daemon closed the connection: {words}"
            ) from error
        except OSError as error:
            raise _no_daemon(self._path, error) from error

    def _reach(self, timeout_s: float) -> None:
        """Connect once, to learn whether a daemon listens. Raises NoDaemonError or RefusedError.

        httpx2 alone would hide the reason, and leak the socket.
        """
        try:
            with (
                short_path(self._path) as reachable,
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe,
            ):
                probe.settimeout(timeout_s)
                probe.connect(reachable)
        except OSError as error:
            raise _no_daemon(self._path, error) from error


def _read(response: httpx2.Response, path: str) -> bytes:
    parts, length = [], 0
    for part in response.iter_raw():
        parts.append(part)
        length += len(part)
        if length > ANSWER_LIMIT_BYTES:
            raise RefusedError(0, f"{path}: the answer exceeds {ANSWER_LIMIT_BYTES >> 20} MiB")
    return b"".join(parts)


def _no_daemon(path: str, error: OSError) -> GivebackError:
    if isinstance(error, PermissionError):
        return RefusedError(
            403,
            f"{path}: permission denied; use sudo, or add your user to the socket's group",
        )
    why = os.strerror(error.errno) if error.errno else str(error)
    return NoDaemonError(
        f"no daemon answers at {path} ({why}); start it: systemctl start giveback-daemon, or "
        "`giveback daemon` as root"
    )
