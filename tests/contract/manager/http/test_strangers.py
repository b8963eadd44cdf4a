"""What clients of the API leave in the log: who asked for what, and no traceback whatever they send."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from scripted_manager import Daemon, ScriptedManager, running, wait_for

from giveback.manager import logs
from giveback.manager.http import audit
from giveback.manager.http.server import Endpoint

POST = b"POST /v1/reclaim HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    out = io.StringIO()
    logs.set_up(out, "warning")
    try:
        yield out
    finally:
        root.handlers[:], logging.raiseExceptions = handlers, raises
        root.setLevel(level)
        structlog.reset_defaults()


@pytest.fixture
def daemon(tmp_path: Path, log: io.StringIO) -> Iterator[Daemon]:
    del log
    with running(Endpoint(socket_path=str(tmp_path / "api.sock")), ScriptedManager()) as served:
        yield served


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def say(daemon: Daemon, text: bytes, *, hears: bool = True) -> bytes:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(60)
        one.connect(daemon.endpoint.socket_path)
        one.sendall(text)
        return one.recv(4096) if hears else b""


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version", "application/openmetrics-text;version=x.y",
        "application/openmetrics-text;version=;q=,;;=", "a;q=zz", ";;;,,,", "*/*" * 9000, "\xff=;\x01",
        "application/openmetrics-text; version=1.0.0; escaping=", "text/plain;escaping=x;version",
        "application/openmetrics-text;version=1." + "9" * 5000,
    ],
)  # fmt: skip
def test_no_accept_header_makes_a_traceback(daemon: Daemon, log: io.StringIO, accept: str) -> None:
    head = b"GET /metrics HTTP/1.1\r\nhost: x\r\naccept: %s\r\n\r\n" % accept.encode("latin-1")
    code = say(daemon, head)[9:12]
    assert code in (b"200", b"400", b"431")
    assert log.getvalue() == ""


def test_clients_that_leave_make_no_traceback(daemon: Daemon, log: io.StringIO) -> None:
    for _ in range(30):
        say(daemon, POST[: POST.index(b"%s")] % 500 + b'{"goal', hears=False)
        say(daemon, POST % (22, b'{"goal_bytes":1048576}'), hears=False)
        say(daemon, b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", hears=False)
        say(daemon, b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n", hears=False)
    ask = b"GET /v1/vms HTTP/1.1\r\nhost: x\r\n\r\n"
    wait_for(lambda: say(daemon, ask).startswith(b"HTTP/1.1 200"))
    wait_for(lambda: len(lines(log)) >= audit.LINES_BURST - 1)
    assert {line["event"] for line in lines(log)} == {"asked"}


def test_who_asked_for_what_and_what_came_of_it_is_in_the_log(
    daemon: Daemon, log: io.StringIO
) -> None:
    assert b"200" in say(daemon, POST % (22, b'{"goal_bytes":1048576}'))
    assert b"400" in say(daemon, POST % (18, b'{"goal_bytes":"1"}'))
    say(daemon, b"GET /v1/vms HTTP/1.1\r\nhost: x\r\n\r\n")
    wait_for(lambda: len(lines(log)) == 2)
    done, refused = lines(log)
    assert done["asked"] == refused["asked"] == "POST /v1/reclaim"
    assert (done["uid"], done["pid"]) == (os.getuid(), os.getpid())
    assert done["socket"] == daemon.endpoint.socket_path
    assert (done["status"], refused["status"]) == (200, 400)
    assert json.loads(done["body"]) == {"goal_bytes": 1 << 20}
    assert "goal_bytes" in refused["answer"]


def test_what_a_client_can_write_into_the_log_is_bounded(daemon: Daemon, log: io.StringIO) -> None:
    long = b'{"goal_bytes": "' + b"\x1b\\n" * 15_000 + b'"}'
    for _ in range(200):
        say(daemon, POST % (len(long), long))
    found = lines(log)
    assert audit.LINES_BURST <= len(found) < 100
    assert len(log.getvalue()) < 3000 * len(found)
    assert "\x1b" not in log.getvalue()


def test_a_library_writes_so_many_lines_a_minute(log: io.StringIO) -> None:
    for number in range(200):
        logging.getLogger("uvicorn.error").error("%d", number)
        logging.getLogger("giveback.daemon").warning("%d", number)
    names = [line["event"] for line in lines(log)]
    assert 200 + logs.LIBRARY_LINES_A_MINUTE <= len(names) <= 200 + 2 * logs.LIBRARY_LINES_A_MINUTE
