"""The page's own resources over real sockets: who is let in, with what rights, from where, for how long."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from http_browser import Browser
from scripted_manager import Daemon, ScriptedManager, running, status, vm_status

from giveback.manager.http.server import Endpoint
from giveback.manager.http.web.client import WebClient
from giveback.manager.http.web.sessions import Sessions
from giveback.manager.settings.access import ApiAccess, ApiPeer

ROOT = ApiPeer(1, 0)
ME = os.geteuid()
READER = ApiPeer(1, 4242)


def endpoint(folder: Path, **more: Any) -> Endpoint:  # noqa: ANN401
    return Endpoint(socket_path=str(folder / "api.sock"), web_listen="127.0.0.1:0", **more)


def port_of(daemon: Daemon) -> int:
    assert daemon.serving is not None
    assert daemon.serving.web_address is not None
    return daemon.serving.web_address[1]


def logged_in(daemon: Daemon, peer: ApiPeer = ROOT, *, read_only: bool = False) -> Browser:
    browser = Browser(port_of(daemon))
    assert browser.log_in(daemon.sessions.new_token(peer, ME, read_only=read_only))[0] == 200
    return browser


def test_the_files_of_the_page_hold_no_data_and_carry_its_policy(tmp_path: Path) -> None:
    with running(endpoint(tmp_path)) as daemon:
        browser = Browser(port_of(daemon))
        for path in (
            "/",
            "/static/app/main.js",
            "/static/vendor/uPlot.esm.js",
            "/static/style.css",
        ):
            code, headers, text = browser.ask("GET", path)
            assert (code, len(text) > 300) == (200, True)
            assert headers["content-security-policy"].startswith(
                "default-src 'none'; script-src 'self'"
            )
            assert headers["x-content-type-options"] == "nosniff"
            again = browser.ask("GET", path, If_None_Match=headers["etag"])
            assert (again[0], again[2]) == (304, "")
        for path in (
            "/static/../sessions.py",
            "/static/%2e%2e/sessions.py",
            "/static/",
            "/static/x",
        ):
            assert browser.ask("GET", path)[0] == 404


def test_without_a_session_nothing_is_told(tmp_path: Path) -> None:
    with running(endpoint(tmp_path)) as daemon:
        browser = Browser(port_of(daemon))
        for path in (
            "/v1/status",
            "/v1/events",
            "/web/live",
            "/web/me",
            "/metrics",
            "/web/sessions",
        ):
            code, _, said = browser.ask("GET", path)
            assert (code, "giveback web" in said["detail"]) == (401, True)
        for path in ("/v1/reclaim", "/web/token", "/web/revoke", "/web/logout"):
            assert browser.ask("POST", path, {"goal_bytes": 1 << 20})[0] == 401
        assert daemon.manager.asked == []


def test_a_token_logs_one_browser_in_once(tmp_path: Path) -> None:
    with running(endpoint(tmp_path)) as daemon:
        token = daemon.sessions.new_token(ROOT, ME, read_only=False)
        browser = Browser(port_of(daemon))
        code, headers, _ = browser.log_in(token)
        assert code == 200
        cookie = headers["set-cookie"]
        assert cookie.startswith(f"giveback-{browser.port}=")
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert Browser(port_of(daemon)).log_in(token)[0] == 401
        assert Browser(port_of(daemon)).log_in("x" * 43)[0] == 401
        code, _, me = browser.ask("GET", "/web/me")
        assert (code, me["may_write"], me["acts"]) == (200, True, True)
        assert browser.ask("GET", "/v1/status")[2]["vms"][0]["name"] == "web"


def test_cookie_and_key_are_both_needed(tmp_path: Path) -> None:
    """A browser sends a cookie to every port of a host; the key goes to this one alone."""
    with running(endpoint(tmp_path)) as daemon:
        browser, other = logged_in(daemon), logged_in(daemon)
        for headers in (
            {"Cookie": ""}, {"X_Giveback_Key": ""}, {"X_Giveback_Key": other.key},
            {"X_Giveback_Key": "é"}, {"Cookie": f"giveback-{browser.port}={'x' * 9000}"},
            {"Cookie": f"giveback-1={browser.cookie}"},
        ):  # fmt: skip
            assert browser.ask("GET", "/v1/status", **headers)[0] == 401, headers
        assert browser.ask("GET", "/v1/status")[0] == 200


def test_a_strangers_page_gets_nothing_from_a_browser_that_is_logged_in(tmp_path: Path) -> None:
    with running(endpoint(tmp_path)) as daemon:
        browser = logged_in(daemon)
        rebound = (
            "evil.example",
            f"evil.example:{browser.port}",
            "127.0.0.1.evil.example",
            "x",
            "",
        )
        for host in rebound:
            assert browser.ask("GET", "/v1/status", Host=host)[0] in (400, 403), host
            assert browser.ask("GET", "/", Host=host)[0] in (400, 403), host
        body = {"goal_bytes": 1 << 30}
        for headers in (
            {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""},
            {"Origin": f"http://127.0.0.1:{browser.port + 1}"}, {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ):  # fmt: skip
            assert browser.ask("POST", "/v1/reclaim", body, **headers)[0] == 403, headers
        assert browser.ask("GET", "/v1/status", Sec_Fetch_Site="cross-site")[0] == 403
        assert daemon.manager.asked == []
        for host in (f"localhost:{browser.port}", "127.0.0.1", "[::1]:99"):
            browser.host = host
            port = host.rpartition(":")[2] if ":" in host else "80"
            cookie = f"giveback-{port}={browser.cookie}"
            assert browser.ask("POST", "/v1/reclaim", body, Cookie=cookie)[0] == 200, host


def test_a_reader_reads_and_the_api_refuses_the_rest(tmp_path: Path) -> None:
    rules = ApiAccess(reader_uids=frozenset({4242}))
    with running(endpoint(tmp_path, access=rules)) as daemon:
        for browser in (logged_in(daemon, READER), logged_in(daemon, read_only=True)):
            assert browser.ask("GET", "/web/me")[2]["may_write"] is False
            assert browser.ask("GET", "/v1/status")[0] == 200
            assert browser.ask("POST", "/v1/reclaim", {"goal_bytes": 1 << 30})[0] == 403
            plan = browser.ask("GET", f"/web/plan?goal_bytes={1 << 30}")
            assert (plan[0], plan[2]["dry_run"]) == (200, True)
        assert daemon.manager.asked == []
        # As of the next request: a reload counts for sessions, too.
        reader = logged_in(daemon, READER)
        assert daemon.serving is not None
        daemon.serving.access = ApiAccess()
        assert reader.ask("GET", "/v1/status")[0] == 403


def test_a_session_is_its_users_alone(tmp_path: Path) -> None:
    """The kernel says whose a connection is; what another user has stolen is of no use."""
    with running(endpoint(tmp_path)) as daemon:
        another = ME + 1
        token = daemon.sessions.new_token(ROOT, another, read_only=False)
        assert Browser(port_of(daemon)).log_in(token)[0] == 401
        made = daemon.sessions.log_in(token, another, "firefox")
        assert made is not None
        stolen = Browser(port_of(daemon))
        stolen.cookie, stolen.key = made[1:]
        assert stolen.ask("GET", "/v1/status")[0] == 401


def test_sessions_outlast_the_daemon_and_end_when_revoked(tmp_path: Path) -> None:
    kept = tmp_path / "web-sessions.json"
    with running(endpoint(tmp_path), sessions_path=kept) as daemon:
        browser, other = logged_in(daemon), logged_in(daemon)
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert browser.cookie not in kept.read_text()
        port = browser.port
    with running(
        replace(endpoint(tmp_path), web_listen=f"127.0.0.1:{port}"), sessions_path=kept
    ) as daemon:
        assert browser.ask("GET", "/v1/status")[0] == 200
        client = WebClient(daemon.endpoint.socket_path)
        listed = client.sessions().sessions
        assert len(listed) == 2
        with streaming(other) as stream:
            client.revoke(listed[1].id)
            assert ends(stream)
        assert other.ask("GET", "/v1/status")[0] == 401
        assert browser.ask("POST", "/web/logout", {})[0] == 200
        assert browser.ask("GET", "/v1/status")[0] == 401
    assert json.loads(kept.read_text()) == []


def test_damaged_or_foreign_sessions_are_none(tmp_path: Path) -> None:
    path = tmp_path / "web-sessions.json"
    for text in (b"", b"[{]", b"\xff", b'[{"id": 1}]', b"{}", b"[" * 100000, b"0" * (2 << 20)):
        path.write_bytes(text)
        path.chmod(0o600)
        assert Sessions(path).listed() == ()
    path.unlink()
    os.mkfifo(path, 0o600)
    assert Sessions(path).listed() == ()
    path.unlink()
    made = Sessions(path)
    assert made.log_in(made.new_token(ROOT, ME, read_only=False), None, "x" * 9999)
    made.save()
    assert len(Sessions(path).listed()) == 1
    path.chmod(0o644)
    assert Sessions(path).listed() == ()


def test_the_unix_socket_serves_browsers_by_their_session_and_commands_by_their_user(
    tmp_path: Path,
) -> None:
    """Through `ssh -L` to the socket a stranger's page would else ask with the tunnel's rights."""
    with running(endpoint(tmp_path)) as daemon:
        path = daemon.endpoint.socket_path
        head = "POST /v1/reclaim HTTP/1.1\r\nHost: {}\r\n{}Content-Length: 23\r\n\r\n"
        assert said(path, head.format("localhost", "")) == 200
        assert said(path, head.format("x", "")) == 200
        for host, more in (
            ("localhost", "Origin: http://evil.example\r\n"), ("localhost", "Sec-Fetch-Site: none\r\n"),
            ("evil.example", ""), ("localhost:9836", "Origin: http://localhost:9836\r\n"),
        ):  # fmt: skip
            assert said(path, head.format(host, more)) in (401, 403), (host, more)
        assert len(daemon.manager.asked) == 2
        token = WebClient(path).token(ME)
        assert token.address == f"http://127.0.0.1:{Browser(port_of(daemon)).port}"
        assert Browser(port_of(daemon)).log_in(token.token)[0] == 200


def test_the_stream_tells_all_and_then_what_changes(tmp_path: Path) -> None:
    manager = ScriptedManager(status(vm_status(), vm_status("db", 200)))
    with running(endpoint(tmp_path), manager) as daemon, streaming(logged_in(daemon)) as stream:
        assert told(stream, "all")["rows"][1]["name"] == "db"
        more = vm_status("<img src=x onerror=alert(1)>", 300)
        daemon.do(lambda: manager.say(vms=(vm_status(), more)))
        while not (change := told(stream, "change"))["gone"]:
            pass
        assert change["gone"] == ["qemu/db/200"]
        assert [row["name"] for row in change["rows"]] == [more.name]


def test_a_hundred_browsers_are_served_and_what_is_too_much_is_refused(tmp_path: Path) -> None:
    vms = tuple(vm_status(f"vm{number}", number) for number in range(200))
    with running(endpoint(tmp_path), ScriptedManager(status(*vms))) as daemon:
        browsers = [logged_in(daemon) for _ in range(50)]
        with contextlib.ExitStack() as stack:
            for browser in browsers * 2:
                assert len(told(stack.enter_context(streaming(browser)), "all")["rows"]) == 200
            assert browsers[-1].ask("GET", "/v1/status")[0] == 200
            more = [stack.enter_context(streaming(browsers[0])) for _ in range(170)]
            assert {stream.status for stream in more} == {200, 503}
            # The unix socket is not theirs.
            assert WebClient(daemon.endpoint.socket_path).status().vms


@contextlib.contextmanager
def streaming(browser: Browser) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=60)
    cookie = f"giveback-{browser.port}={browser.cookie}"
    headers = {"Host": browser.host, "Cookie": cookie, "X-Giveback-Key": browser.key}
    connection.request("GET", "/web/live", headers=headers)
    with contextlib.closing(connection), connection.getresponse() as answer:
        yield answer


def told(stream: http.client.HTTPResponse, name: str) -> Any:  # noqa: ANN401
    """The data of the next event of that name."""
    while (line := stream.readline()) != f"event: {name}\n".encode():
        assert line, "the stream has ended"
    return json.loads(stream.readline().removeprefix(b"data: "))


def ends(stream: http.client.HTTPResponse) -> bool:
    # A stream that is cut off has no last chunk.
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        while stream.readline():
            pass
    return True


def said(path: str, text: str) -> int:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(60)
        one.connect(path)
        one.sendall(text.encode() + b'{"goal_bytes": 1048576}')
        return int(one.recv(4096)[9:12])


@pytest.mark.parametrize(
    "body", ['{"token": 5}', '{"token": ""}', "{}", "[]", "x", '{"token": "a", "more": 1}']
)
def test_a_login_that_is_none_is_refused(tmp_path: Path, body: str) -> None:
    with running(endpoint(tmp_path)) as daemon:
        browser = Browser(port_of(daemon))
        connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=30)
        headers = {"Origin": f"http://{browser.host}", "Host": browser.host}
        with contextlib.closing(connection):
            connection.request("POST", "/web/login", body, headers)
            with connection.getresponse() as answer:
                assert answer.status == 400
