"""The daemon's API over a real socket: what it says, to whom, and whom it does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import http.client
import json
import os
import platform
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from scripted_manager import (
    Daemon,
    ScriptedManager,
    action,
    past,
    running,
    status,
    vm_status,
    wait_for,
)

from giveback.errors import InputError
from giveback.manager.history.recorder import History
from giveback.manager.http import api, server
from giveback.manager.http.answers import encoded
from giveback.manager.http.client import Client, NoDaemonError, RefusedError
from giveback.manager.http.feed import EVENTS
from giveback.manager.http.server import Endpoint
from giveback.manager.model import VmCondition
from giveback.manager.settings.access import ApiAccess

NOBODY = 65534
_CALLS = {"x86_64": (117, 119, 116), "aarch64": (147, 149, 159)}
"""setresuid, setresgid, setgroups: the system calls change one thread, libc's change all."""
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or platform.machine() not in _CALLS, reason="becomes other users: needs root"
)


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket that is connected already."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__("localhost", timeout=30)
        self.sock = connected


def connect(path: str) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.connect(path)
    except OSError:
        connected.close()
        raise
    connected.settimeout(30)
    return connected


def connect_as(path: str, uid: int, groups: tuple[int, ...] = ()) -> socket.socket:
    """As another user: credentials are a thread's own, and the peer sees those of connect()."""
    found: list[socket.socket | BaseException] = []

    def become_and_connect() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        setresuid, setresgid, setgroups = _CALLS[platform.machine()]
        numbers = (ctypes.c_uint32 * len(groups))(*groups)
        assert libc.syscall(setgroups, len(groups), numbers) == 0
        assert libc.syscall(setresgid, uid, uid, uid) == 0
        assert libc.syscall(setresuid, uid, uid, uid) == 0
        try:
            found.append(connect(path))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=become_and_connect)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def ask(
    connected: socket.socket, method: str, resource: str, body: object = None
) -> tuple[int, str, Any]:
    connection = Connection(connected)
    data = None if body is None else json.dumps(body)
    connection.request(method, resource, data, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    kind = answer.headers.get_content_type()
    connection.close()
    return answer.status, kind, json.loads(text) if "json" in kind else text.decode()


def endpoint(folder: Path, **changes: Any) -> Endpoint:  # noqa: ANN401
    return Endpoint(socket_path=str(folder / "api.sock"), **changes)


def said(daemon: Daemon, method: str, resource: str, body: object = None) -> tuple[int, str, Any]:
    return ask(connect(daemon.endpoint.socket_path), method, resource, body)


def validator(openapi: dict[str, Any], schema: dict[str, Any]) -> Any:  # noqa: ANN401
    """JSON Schema 2020-12, which is what OpenAPI 3.1 means, with the document's own components."""
    return jsonschema.Draft202012Validator({**schema, "components": openapi["components"]})


def check(openapi: dict[str, Any], method: str, path: str, found: tuple[int, str, Any]) -> None:
    code, kind, answer = found
    described = openapi["paths"][path][method.lower()]["responses"][str(code)]["content"]
    schema = described[kind]["schema"]
    validator(openapi, schema).validate(answer)


def busy_picture() -> Any:  # noqa: ANN401
    vms = [
        vm_status("web", 100),
        vm_status("twin", 7),
        vm_status("twin", 8, condition=VmCondition.NO_AGENT, needed_bytes=None, urgency=None),
        vm_status("a/b c%2F\udc80\x1b", 9, lease_left_s=float("nan")),
    ]
    return status(*vms, wall_s=time.time(), actions=(action(1), action(2, measured_bytes=None)))


def test_every_answer_is_what_the_description_says(tmp_path: Path) -> None:
    where = endpoint(tmp_path, history=past(tmp_path / "history.db"))
    history = History(str(tmp_path / "history.db"), 8 << 20)
    manager = ScriptedManager(busy_picture())
    history.status(manager.now)
    history.action(action(1, wall_s=time.time() - 1))
    history.close()
    with running(where, manager) as daemon:
        openapi = said(daemon, "GET", "/openapi.json")[2]
        at_s = said(daemon, "GET", "/v1/history?since=5m")[2]["host"][0]["at_s"]
        assert len(said(daemon, "GET", f"/v1/history/frame?at={at_s}")[2]["samples"]) == 4
        key = "/v1/vms/{key}"
        for method, path, resource, body, code in (
            ("GET", "/v1/status", "/v1/status", None, 200),
            ("GET", "/v1/vms", "/v1/vms", None, 200),
            ("GET", key, "/v1/vms/qemu%2Fweb%2F100", None, 200),
            ("GET", key, "/v1/vms/web", None, 200),
            ("GET", key, "/v1/vms/9", None, 200),
            ("GET", key, "/v1/vms/nope", None, 404),
            ("GET", key, "/v1/vms/twin", None, 409),
            ("GET", "/v1/history", "/v1/history?since=5m", None, 200),
            ("GET", "/v1/history", "/v1/history?since=5m&vm=web", None, 200),
            ("GET", "/v1/history", "/v1/history?since=ever", None, 400),
            ("GET", "/v1/history", "/v1/history?vm=nope", None, 400),
            ("GET", "/v1/history", "/v1/history?sinse=5m", None, 400),
            ("GET", "/v1/history/frame", f"/v1/history/frame?at={at_s}", None, 200),
            ("GET", "/v1/history/frame", "/v1/history/frame?at=5", None, 200),
            ("GET", "/v1/history/frame", "/v1/history/frame?at=now", None, 400),
            ("GET", "/v1/history/frame", "/v1/history/frame", None, 400),
            ("GET", "/v1/usage", "/v1/usage?since=7d", None, 200),
            ("GET", "/v1/usage", "/v1/usage", None, 200),
            ("GET", "/v1/usage", "/v1/usage?from=9&to=5", None, 400),
            ("GET", "/v1/usage", "/v1/usage?vm=web", None, 400),
            ("GET", "/metrics", "/metrics", None, 200),
            ("GET", "/openapi.json", "/openapi.json", None, 200),
            ("POST", "/v1/reclaim", "/v1/reclaim", {"goal_bytes": 1 << 20, "vms": ["web"]}, 200),
            ("POST", "/v1/reclaim", "/v1/reclaim", {"goal_bytes": 1 << 20, "vms": ["nope"]}, 404),
            ("POST", "/v1/reclaim", "/v1/reclaim", {"goal_bytes": "1G"}, 400),
            ("POST", "/v1/reclaim", "/v1/reclaim", {"goal_bytes": 1 << 20, "soon": True}, 400),
            (
                "POST",
                "/v1/reclaim",
                "/v1/reclaim",
                {"goal_bytes": 1 << 20, "vms": ["x" * 70_000]},
                413,
            ),
            ("POST", f"{key}/urgency", "/v1/vms/web/urgency", {"urgency": 3, "lease_s": 9}, 200),
            ("POST", f"{key}/urgency", "/v1/vms/web/urgency", {"urgency": 4}, 400),
            ("POST", f"{key}/urgency", "/v1/vms/web/urgency", {"urgency": 1, "lease_s": 13}, 400),
        ):
            found = said(daemon, method, resource, body)
            assert found[0] == code, (resource, found)
            check(openapi, method, path, found)
    assert ("reclaim", 1 << 20, 30.0, ("qemu/web/100",)) in manager.asked
    assert ("urgency", "qemu/web/100", 3, 9.0) in manager.asked


def test_the_description_is_openapi_3_1_and_names_every_route(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "helpers/openapi"
    with running(endpoint(tmp_path)) as daemon:
        openapi = said(daemon, "GET", "/openapi.json")[2]
    assert openapi["openapi"].startswith("3.1.")
    for schema in openapi["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    operations = [
        operation
        for path in openapi["paths"].values()
        for method, operation in path.items()
        if method in ("get", "post")
    ]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids)) == 11
    for operation in operations:
        assert operation["responses"]
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(openapi)):
        assert name in openapi["components"]["schemas"]
    for path, item in openapi["paths"].items():
        in_path = set(re.findall(r"\{(\w+)\}", path))
        assert {p["name"] for p in item.get("parameters", [])} == in_path
    assert folder.parent.is_dir()


def test_problems_say_what_to_do(tmp_path: Path) -> None:
    with running(endpoint(tmp_path)) as daemon:
        for method, resource, code in (
            ("GET", "/v2/status", 404),
            ("POST", "/v1/status", 405),
            ("GET", "/v1/history", 404),
            ("GET", "/v1/history/frame?at=5", 404),
            ("GET", "/v1/usage", 404),
        ):
            found, kind, problem = said(daemon, method, resource, {})
            assert (found, kind) == (code, "application/problem+json")
            assert problem["status"] == code
            assert "openapi" in problem["detail"] or "set history" in problem["detail"]


@as_root
@pytest.mark.parametrize(
    ("access", "groups", "reads", "writes"),
    [
        (ApiAccess(), (), 403, 403),
        (ApiAccess(reader_uids=frozenset({NOBODY})), (), 200, 403),
        (ApiAccess(reader_gids=frozenset({4242})), (4242,), 200, 403),
        (ApiAccess(reader_gids=frozenset({NOBODY})), (), 200, 403),
        (ApiAccess(writer_gids=frozenset({4242})), (17, 4242), 200, 200),
        (ApiAccess(writer_uids=frozenset({NOBODY})), (), 200, 200),
        (ApiAccess(writer_gids=frozenset({4243})), (17, 4242), 403, 403),
    ],
)
def test_the_peers_credentials_decide(
    tmp_path: Path, access: ApiAccess, groups: tuple[int, ...], reads: int, writes: int
) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    where = endpoint(tmp_path, socket_mode=0o666, access=access)
    with running(where) as daemon:
        for method, resource, code in (
            ("GET", "/v1/status", reads),
            ("GET", "/metrics", reads),
            ("POST", "/v1/reclaim", writes),
        ):
            connected = connect_as(where.socket_path, NOBODY, groups)
            found = ask(connected, method, resource, {"goal_bytes": 1 << 20})
            assert found[0] == code, found
            if code == 403:
                assert f"uid {NOBODY}" in found[2]["detail"]
        assert said(daemon, "POST", "/v1/reclaim", {"goal_bytes": 1 << 20})[0] == 200


@as_root
def test_rules_may_change_while_it_serves(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    where = endpoint(tmp_path, socket_mode=0o666)
    with running(where) as daemon:
        assert ask(connect_as(where.socket_path, NOBODY), "GET", "/v1/vms")[0] == 403
        assert daemon.serving is not None
        daemon.serving.access = ApiAccess(reader_uids=frozenset({NOBODY}))
        assert ask(connect_as(where.socket_path, NOBODY), "GET", "/v1/vms")[0] == 200


@as_root
def test_the_sockets_mode_and_group_are_those_of_the_settings(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    where = endpoint(tmp_path, socket_mode=0o620, socket_group="4242")
    with running(where):
        found = Path(where.socket_path).stat()
        assert (found.st_mode & 0o777, found.st_gid) == (0o620, 4242)
        with pytest.raises(PermissionError):
            connect_as(where.socket_path, NOBODY)
        connect_as(where.socket_path, NOBODY, (4242,)).close()


def test_a_dead_daemons_socket_is_replaced_and_a_live_ones_refused(tmp_path: Path) -> None:
    where = endpoint(tmp_path)
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(where.socket_path)
    left.close()
    with running(where) as daemon:
        with pytest.raises(InputError, match="another daemon answers"), running(where):
            pass
        assert said(daemon, "GET", "/v1/vms")[0] == 200
    assert not Path(where.socket_path).exists()
    Path(where.socket_path).write_text("mine")
    with pytest.raises(InputError, match="not a socket"), running(where):
        pass
    assert Path(where.socket_path).read_text() == "mine"
    for bad, words in (
        (endpoint(tmp_path / "none"), "No such file"),
        (Endpoint(socket_path="/" + "x" * 200), "107"),
        (endpoint(tmp_path, socket_group="no-such-group"), "does not exist"),
        (endpoint(tmp_path / ".." / tmp_path.name, metrics_listen="0.0.0.0:0"), "only loopback"),
        (endpoint(tmp_path, metrics_listen="localhost"), "is not ADDRESS:PORT"),
    ):
        Path(where.socket_path).unlink(missing_ok=True)
        with pytest.raises(InputError, match=words), running(bad):
            pass


def events_of(connected: socket.socket) -> http.client.HTTPResponse:
    connected.sendall(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n")
    stream = http.client.HTTPResponse(connected)
    stream.begin()
    return stream


def answer_of(connected: socket.socket) -> tuple[int, bytes]:
    with http.client.HTTPResponse(connected) as answer:
        answer.begin()
        return answer.status, answer.read()


def next_event(stream: http.client.HTTPResponse) -> tuple[str, Any]:
    name = ""
    while True:
        line = stream.readline().decode().rstrip("\n")
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            return name, json.loads(line.removeprefix("data: "))


def event_called(stream: http.client.HTTPResponse, wanted: str) -> Any:  # noqa: ANN401
    while True:
        name, data = next_event(stream)
        assert name in EVENTS
        if name == wanted:
            return data


def test_changes_are_told_as_they_happen(tmp_path: Path) -> None:
    with running(endpoint(tmp_path)) as daemon:
        listening = connect(daemon.endpoint.socket_path)
        stream = events_of(listening)
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert event_called(stream, "status")["vms"] == 1
        now = daemon.manager.now
        daemon.manager.say(vms=(*now.vms, vm_status("new", 5)), actions=(action(9),))
        assert event_called(stream, "vm")["name"] == "new"
        assert event_called(stream, "action")["id"] == 9
        daemon.manager.say(vms=now.vms)
        assert event_called(stream, "gone") == {"key": "qemu/new/5"}
        stream.close()
        listening.close()


def test_shutdown_waits_for_nobody(tmp_path: Path) -> None:
    """Not for a stream, a reclaim that goes on, a request half sent, or one who does not read."""
    manager = ScriptedManager(status(*[vm_status(f"vm{i}", i) for i in range(3000)]))
    with running(endpoint(tmp_path), manager) as daemon:
        path = daemon.endpoint.socket_path
        listening = connect(path)
        stream = events_of(listening)
        next_event(stream)
        daemon.do(manager.holds.clear)
        waiting, half, deaf = connect(path), connect(path), connect(path)
        body = b'{"goal_bytes": 1048576}'
        head = b"POST /v1/reclaim HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        waiting.sendall(head + body)
        half.sendall(b"GET /v1/sta")
        deaf.sendall(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_for(lambda: manager.asked, "the reclaim")
        daemon.stop()
        assert stream.read().strip() == b""
        stream.close()
        assert answer_of(waiting)[0] == 503
        for one in (waiting, half, deaf, listening):
            one.close()


def test_shutdown_leaves_no_connection_of_one_whose_answer_is_only_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request is over, so nothing times out; but who does not read does not let it close."""
    made: list[server._Connection] = []

    class Kept(server._Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            made.append(self)

    monkeypatch.setattr(server, "_Connection", Kept)

    async def fill_and_stop(deaf: socket.socket) -> None:
        async with asyncio.timeout(30), server.serving(ScriptedManager(), endpoint(tmp_path)):
            deaf.connect(str(tmp_path / "api.sock"))
            while not made or made[0].transport.get_write_buffer_size() == 0:
                if not (made and made[0]._answering):
                    deaf.sendall(b"GET /v1/vms/web HTTP/1.1\r\nhost: x\r\n\r\n")
                await asyncio.sleep(0.001)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        asyncio.run(fill_and_stop(deaf))
        assert _is_cut(deaf)
        assert made[0].transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("turns", range(5))
def test_shutdown_closes_a_connection_that_has_just_been_accepted(
    tmp_path: Path, turns: int
) -> None:
    async def connect_and_stop(late: socket.socket) -> None:
        async with server.serving(ScriptedManager(), endpoint(tmp_path)):
            await asyncio.to_thread(Client(str(tmp_path / "api.sock")).status)
            late.connect(str(tmp_path / "api.sock"))
            for _ in range(turns):
                await asyncio.sleep(0)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as late:
        asyncio.run(connect_and_stop(late))
        assert _is_cut(late)
    # A transport that was never closed warns here.
    gc.collect()


def test_the_daemons_signal_handlers_stay_its_own(tmp_path: Path) -> None:
    async def handler_while_serving() -> object:
        async with server.serving(ScriptedManager(), endpoint(tmp_path)):
            await asyncio.to_thread(Client(str(tmp_path / "api.sock")).status)
            return signal.getsignal(signal.SIGTERM)

    assert asyncio.run(handler_while_serving()) is signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("before", [b"", b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_who_waits_for_an_answer_is_not_taken_for_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    manager = ScriptedManager()
    manager.holds.clear()
    with running(endpoint(tmp_path), manager) as daemon:
        path = daemon.endpoint.socket_path
        waiting = connect(path)
        head = b"POST /v1/reclaim HTTP/1.1\r\nhost: x\r\ncontent-length: 23\r\n\r\n"
        waiting.sendall(before + head + b'{"goal_bytes": 1048576}')
        if before:
            assert answer_of(waiting)[0] == 200
        wait_for(lambda: manager.asked, "the question")
        with connect(path) as silent:
            assert silent.recv(1) == b""
        daemon.do(manager.holds.set)
        assert answer_of(waiting)[0] == 200
        waiting.close()


def test_slow_and_silent_clients_are_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 1.0)
    monkeypatch.setattr(server, "SEND_S", 0.5)
    monkeypatch.setattr(api, "BODY_WAIT_S", 0.2)
    manager = ScriptedManager(status(*[vm_status(f"vm{i}", i) for i in range(3000)]))
    with running(endpoint(tmp_path), manager) as daemon:
        path = daemon.endpoint.socket_path
        silent, half, second, deaf, slow = (connect(path) for _ in range(5))
        half.sendall(b"GET /v1/sta")
        second.sendall(b"GET /v1/vms/vm1 HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/st")
        deaf.sendall(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
        slow.sendall(b"POST /v1/reclaim HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        assert silent.recv(1) == b""
        assert half.recv(1) == b""
        assert answer_of(second)[0] == 200
        assert second.recv(1) == b""
        assert answer_of(slow)[0] == 408
        with connect(path) as third:
            third.sendall(b"GET /v1/vms/vm1 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answer_of(third)[0] == 200
            third.sendall(b"GET /v1/vms/vm1 HTTP/1.1\r\nx: ")
            wait_for(lambda: _is_closed_to(third), "the end of a head that comes byte by byte")
        # A part of the answer is in the socket's buffer; the rest never comes.
        whole = len(encoded(Client(path).status()))
        wait_for(lambda: _is_cut(deaf), "the end of who does not read")
        assert whole > 1 << 20
        for one in (silent, half, second, deaf, slow):
            one.close()


def _is_closed_to(connected: socket.socket) -> bool:
    """Whether one more byte is refused."""
    try:
        connected.sendall(b"x")
    except OSError:
        return True
    return False


def _is_cut(connected: socket.socket) -> bool:
    """Whether the other end is closed, without reading what is there."""
    import select

    poll = select.poll()
    poll.register(connected, select.POLLHUP)
    return bool(poll.poll(0))


def test_connections_are_bounded_and_the_rest_is_told_so(tmp_path: Path) -> None:
    with running(endpoint(tmp_path)) as daemon:
        path = daemon.endpoint.socket_path
        held = [connect(path) for _ in range(server.CONNECTIONS)]
        code, _, problem = said(daemon, "GET", "/v1/vms")
        assert code == 503
        assert "try again" in problem["detail"]
        for one in held:
            one.close()
        wait_for(lambda: said(daemon, "GET", "/v1/vms")[0] == 200, "room for a client")


def test_no_user_holds_more_than_so_many_connections(tmp_path: Path) -> None:
    with running(endpoint(tmp_path)) as daemon:
        path = daemon.endpoint.socket_path
        held = [connect(path) for _ in range(2 * server.CONNECTIONS)]
        with connect(path) as one_more:
            assert one_more.recv(1) == b""
        assert not any(_is_cut(one) for one in held)
        for one in held:
            one.close()


@as_root
def test_readers_who_take_all_they_can_do_not_lock_root_out(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    readers = ApiAccess(reader_uids=frozenset({NOBODY}))
    where = endpoint(tmp_path, socket_mode=0o666, access=readers)
    with running(where) as daemon:
        path = where.socket_path
        held = [connect_as(path, NOBODY) for _ in range(2 * server.CONNECTIONS + 10)]
        assert said(daemon, "GET", "/v1/vms")[0] == 200
        for one in held:
            one.close()


@as_root
def test_many_users_together_leave_room_for_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user may have 65,536 uids: those of a container's user namespace."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    monkeypatch.setattr(server, "CONNECTIONS_OF_ALL", 40)
    with running(endpoint(tmp_path, socket_mode=0o666)) as daemon:
        path = daemon.endpoint.socket_path
        held = [connect_as(path, NOBODY + at // 20) for at in range(60)]
        wait_for(lambda: sum(map(_is_cut, held)) == 20, "the refusal of what is too much")
        with connect(path) as root:
            root.sendall(b"GET /v1/vms HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answer_of(root)[0] == 200
        for one in held:
            one.close()


def test_reclaims_are_bounded_and_the_rest_is_told_when_to_try_again(tmp_path: Path) -> None:
    manager = ScriptedManager()
    manager.holds.clear()
    with running(endpoint(tmp_path), manager) as daemon:
        path = daemon.endpoint.socket_path
        held = [Connection(connect(path)) for _ in range(api.RECLAIMS_AT_ONCE)]
        for one in held:
            one.request("POST", "/v1/reclaim", '{"goal_bytes": 1048576}')
        wait_for(lambda: len(manager.asked) == len(held), "the questions")
        too_many = Connection(connect(path))
        too_many.request("POST", "/v1/reclaim", '{"goal_bytes": 1048576}')
        answer = too_many.getresponse()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "try again soon" in json.loads(answer.read())["detail"]
        daemon.do(manager.holds.set)
        assert [one.getresponse().status for one in held] == [200] * len(held)
        for one in (*held, too_many):
            one.close()


def test_many_questions_cost_the_manager_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "STATUS_AGE_S", 3600.0)
    with running(endpoint(tmp_path)) as daemon:
        before = said(daemon, "GET", "/v1/status")[2]
        daemon.manager.say(problems=("new",))
        assert said(daemon, "GET", "/v1/status")[2] == before
        assert len(said(daemon, "GET", "/v1/vms")[2]["vms"]) == len(before["vms"])


def test_who_leaves_wants_no_more(tmp_path: Path) -> None:
    manager = ScriptedManager()
    manager.holds.clear()
    with running(endpoint(tmp_path), manager) as daemon:
        one = connect(daemon.endpoint.socket_path)
        Connection(one).request("POST", "/v1/reclaim", '{"goal_bytes": 1048576}')
        wait_for(lambda: manager.asked, "the question")
        assert manager.given_up == 0
        one.close()
        wait_for(lambda: manager.given_up, "the end of a request without a client")


def test_garbage_is_refused_and_hurts_nobody(tmp_path: Path) -> None:
    with running(endpoint(tmp_path)) as daemon:
        path = daemon.endpoint.socket_path
        for garbage in (
            b"\x00\xff" * 5000,
            b"GET " + b"/x" * 40_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
            b"POST /v1/reclaim HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n\xff{[[[[[[[",
            b"POST /v1/reclaim HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nNaN",
        ):
            with connect(path) as one:
                one.sendall(garbage)
                one.shutdown(socket.SHUT_WR)
                assert one.recv(100).startswith(b"HTTP/1.1 4")
        deep = b"[" * 60_000
        head = b"POST /v1/reclaim HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(deep)
        with connect(path) as one:
            one.sendall(head + deep)
            assert one.recv(100).startswith(b"HTTP/1.1 400")
        assert said(daemon, "GET", "/v1/vms")[0] == 200


def test_connections_leave_no_descriptors_behind(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    with running(endpoint(tmp_path)) as daemon:
        path = daemon.endpoint.socket_path
        said(daemon, "GET", "/metrics")
        before = descriptors()
        for number in range(300):
            # A server that has too many of them already closes one at once.
            with connect(path) as one, contextlib.suppress(ConnectionError):
                if number % 3:
                    one.sendall(b"GET /v1/vms HTTP/1.1\r\nhost: x\r\n\r\n"[: number % 38])
        wait_for(lambda: descriptors() <= before, "the descriptors' return")


def test_the_client_says_who_is_missing_and_who_refuses(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    with pytest.raises(NoDaemonError, match="systemctl start giveback-daemon"):
        Client(path).status()
    with running(Endpoint(socket_path=path)) as daemon:
        client = Client(path)
        assert client.status().vms[0].name == "web"
        assert client.set_urgency("web", 2, 5).key == "qemu/web/100"
        daemon.manager.gives_bytes = 10
        assert client.reclaim(100 << 20, 1).reached is False
        with pytest.raises(InputError, match="no VM has this name"):
            client.set_urgency("a/b c", 2, 5)
    (tmp_path / "deaf.sock").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(tmp_path / "deaf.sock"))
        deaf.listen()
        with pytest.raises(NoDaemonError, match="no answer in"):
            Client(str(tmp_path / "deaf.sock"), timeout_s=0.1).status()
    assert issubclass(RefusedError, Exception)


@pytest.mark.parametrize("body", [b"[]", b"hello", b"\xff{}", b"[" * 5000])
def test_the_client_tells_a_stranger_from_a_daemon(tmp_path: Path, body: bytes) -> None:
    path = str(tmp_path / "other.sock")
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)

    def answer() -> None:
        for _ in range(2):
            # The client looks first whether anybody listens.
            connected, _ = listener.accept()
            with connected:
                if connected.recv(4096):
                    connected.sendall(head + body)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        stranger = threading.Thread(target=answer)
        stranger.start()
        with pytest.raises(NoDaemonError, match="not one of a giveback daemon"):
            Client(path).status()
        stranger.join()
