"""Talks to the running daemon over its unix socket: what `status`, `history` and `reclaim` use."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import httpx2
from pydantic import TypeAdapter, ValidationError

from giveback.errors import InputError
from giveback.vmm.clients.sockets import short_path
from giveback_kernel.errors import GivebackError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWER_LIMIT_BYTES = 64 << 20
TIMEOUT_S = 10.0
NO_DAEMON = 3
_ANSWER = TypeAdapter(dict[str, Any])


class NoDaemonError(GivebackError):
    """Nobody answers at the socket."""

    exit_code = NO_DAEMON


class RefusedError(GivebackError):
    """The daemon answers, and refuses; its words say what to do."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Client:
    """One question at a time; raises NoDaemonError, RefusedError, InputError (what was asked is wrong)."""

    def __init__(self, socket_path: str, timeout_s: float = TIMEOUT_S) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s

    def status(self) -> dict[str, Any]:
        """`DaemonStatus` as JSON has it."""
        return self._object("GET", "/v1/status")

    def history(self, from_s: int, to_s: int, vm: str | None = None) -> dict[str, Any]:
        """What `giveback.manager.history.reader.read` returns."""
        query = {"from": str(from_s), "to": str(to_s), **({"vm": vm} if vm else {})}
        return self._object("GET", f"/v1/history?{urlencode(query)}")

    def reclaim(self, goal_bytes: int, within_s: float, vms: Sequence[str] = ()) -> dict[str, Any]:
        """`ReclaimResult` as JSON has it, and `reached`."""
        body = {"goal_bytes": goal_bytes, "within_s": within_s, "vms": list(vms)}
        return self._object("POST", "/v1/reclaim", body, within_s)

    def set_urgency(self, vm: str, urgency: int, lease_s: float) -> dict[str, Any]:
        """By name or key."""
        body = {"urgency": urgency, "lease_s": lease_s}
        return self._object("POST", f"/v1/vms/{quote(vm, safe='')}/urgency", body)

    def _object(
        self, method: str, resource: str, body: object = None, longer_s: float = 0.0
    ) -> dict[str, Any]:
        status, data = self._answer(method, resource, body, self._timeout_s + longer_s)
        try:
            said = _ANSWER.validate_json(data)
        except ValidationError as error:
            raise NoDaemonError(f"{self._path}: what answers is no giveback daemon") from error
        if status == httpx2.codes.OK:
            return said
        words = escape_for_terminal(str(said.get("detail") or said.get("title") or status), 500)
        if status in (400, 404, 409, 413):
            raise InputError(words)
        raise RefusedError(status, words)

    def _answer(
        self, method: str, resource: str, body: object, timeout_s: float
    ) -> tuple[int, bytes]:
        self._reach(timeout_s)
        try:
            with (
                short_path(self._path) as reachable,
                httpx2.Client(
                    transport=httpx2.HTTPTransport(uds=reachable), timeout=timeout_s
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
            raise NoDaemonError(f"{self._path}: the daemon broke off: {words}") from error
        except OSError as error:
            raise _no_daemon(self._path, error) from error

    def _reach(self, timeout_s: float) -> None:
        """That somebody listens, and why not otherwise: httpx2 hides the reason and leaks the socket."""
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
            raise RefusedError(0, f"{path}: answers more than {ANSWER_LIMIT_BYTES >> 20} MiB")
    return b"".join(parts)


def _no_daemon(path: str, error: OSError) -> GivebackError:
    if isinstance(error, PermissionError):
        return RefusedError(
            403,
            f"{path}: permission denied; use sudo, or have yourself added to the socket's group",
        )
    why = os.strerror(error.errno) if error.errno else str(error)
    return NoDaemonError(
        f"no daemon answers at {path} ({why}); start it: systemctl start giveback-daemon, or "
        "`giveback daemon` as root"
    )
