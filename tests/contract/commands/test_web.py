"""`giveback web` as a user runs it: it serves a page of a daemon that runs, or runs one itself."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import real_qemu
from http_browser import Browser
from scripted_manager import running, wait_for

from giveback.manager.http.server import Endpoint

DEADLINE_S = 60


@contextlib.contextmanager
def web(folder: Path, *words: str) -> Iterator[tuple[Browser, str]]:
    """The command while it serves, a browser at its address, and the token in it."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(folder)}
    log = folder / "web.log"
    command = (sys.executable, "-m", "giveback", "web", "--no-open", *words)
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        address = re.compile(r"http://127\.0\.0\.1:(\d+)/#login=(\S+)")
        wait_for(
            lambda: address.search(log.read_text()) or process.poll() is not None, "an address"
        )
        found = address.search(log.read_text())
        assert found is not None, log.read_text()
        yield Browser(int(found[1])), found[2]
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_it_leads_a_port_to_a_daemon_that_serves_none(tmp_path: Path) -> None:
    with running(Endpoint(socket_path=str(tmp_path / "api.sock"))) as daemon:
        place = ("--socket", daemon.endpoint.socket_path)
        with web(tmp_path, *place) as (browser, token):
            assert browser.ask("GET", "/v1/status")[0] == 401
            assert browser.log_in(token)[0] == 200
            assert browser.ask("GET", "/v1/status")[2]["vms"][0]["name"] == "web"
            assert browser.ask("POST", "/v1/reclaim", {"goal_bytes": 1 << 20})[0] == 200
            assert len(browser.ask("GET", "/static/vendor/uPlot.esm.js")[2]) > 100_000
            sessions = call("--sessions", *place)
            number = sessions.split()[0]
            assert "logged out" in call("--revoke", number, *place)
            assert browser.ask("GET", "/v1/status")[0] == 401
            assert call("--sessions", *place) == ""


def test_a_daemon_with_a_port_of_its_own_is_opened_there(tmp_path: Path) -> None:
    endpoint = Endpoint(socket_path=str(tmp_path / "api.sock"), web_listen="127.0.0.1:0")
    with running(endpoint) as daemon:
        printed = call("--no-open", "--read-only", "--socket", endpoint.socket_path)
        assert daemon.serving is not None
        assert daemon.serving.web_address is not None
        browser = Browser(daemon.serving.web_address[1])
        assert printed.startswith(f"http://127.0.0.1:{browser.port}/#login=")
        assert browser.log_in(printed.strip().partition("=")[2])[0] == 200
        assert browser.ask("GET", "/web/me")[2]["may_write"] is False


def test_where_no_daemon_runs_it_runs_one_that_watches_and_looks_closer(tmp_path: Path) -> None:
    settings = tmp_path / "giveback.toml"
    # Other VMs of this machine are nothing to this test.
    settings.write_text(
        f'[daemon]\nsocket = "{tmp_path}/run/api.sock"\nstate = "{tmp_path}/state"\n'
        '[vm."*"]\nignore = true\n'
    )
    folder = tmp_path / "qemu"
    folder.mkdir()
    with (
        real_qemu.running(folder, "-m", "64", "-name", "looked-at") as process,
        web(tmp_path, "--read-only", "--settings", str(settings)) as (browser, token),
    ):
        assert browser.log_in(token)[0] == 200
        me = browser.ask("GET", "/web/me")[2]
        assert (me["may_write"], me["acts"], me["has_history"]) == (False, False, True)
        path = f"/v1/vms/{process.pid}"
        wait_for(lambda: browser.ask("GET", path)[0] == 200, "the VM")
        code, _, found = browser.ask("GET", f"/web/details/{process.pid}")
        assert (code, found["explain"]["name"]) == (200, "looked-at")
        assert found["doctor"][0]["findings"]
        assert sum(row["ram_bytes"] for row in found["explain"]["rows"]) == 64 << 20
        assert browser.ask("POST", "/v1/reclaim", {"goal_bytes": 1 << 20})[0] == 403
        assert browser.ask("GET", "/web/details/none")[0] == 404
    assert not (tmp_path / "run/api.sock").exists()


def test_without_a_daemon_there_are_no_sessions_to_list(tmp_path: Path) -> None:
    command = (
        sys.executable,
        "-m",
        "giveback",
        "web",
        "--sessions",
        "--socket",
        str(tmp_path / "x"),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)


def call(*words: str) -> str:
    command = (sys.executable, "-m", "giveback", "web", *words)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout
