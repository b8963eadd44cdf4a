"""`giveback enable` for Proxmox (against fakepve) and Incus (against a program that keeps its file)."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from giveback.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

# pvesh calls the API without a network; this one calls the fake's.
PVESH = """\
#!{python}
import os, sys, urllib.error
sys.path.insert(0, {here!r})
from test_enable_managed import api
verb, path, *words = sys.argv[1:]
named = dict(zip(words[::2], words[1::2]))
named.pop("--output-format", None)
fields = {{name.lstrip("-"): value for name, value in named.items()}}
try:
    print(api({url!r}, {{"get": "GET", "set": "PUT"}}[verb], path.replace("localhost", "pve1"), fields))
except urllib.error.HTTPError as error:
    sys.exit(f"{{error.reason}} {{error.read()[:300]}}")
"""
INCUS = """\
#!{python}
import json, pathlib, sys
file = pathlib.Path({state!r})
vm = json.loads(file.read_text())
words = [word for word in sys.argv[1:]]
if words[0] == "query":
    print(json.dumps(vm))
elif vm["status"] == "Running":
    sys.exit("Error: Key \\"raw.qemu.conf\\" cannot be updated when VM is running")
else:
    vm["config"].pop("raw.qemu.conf", None)
    if words[1] == "set":
        vm["config"]["raw.qemu.conf"] = sys.stdin.read()
    vm["expanded_config"] = vm["config"]
    file.write_text(json.dumps(vm))
"""


def api(url: str, verb: str, path: str, fields: dict[str, str]) -> str:
    """The data of one call to the fake, as JSON."""
    context = ssl._create_unverified_context()  # noqa: S323  # the fake signs its own

    def call(verb: str, path: str, fields: dict[str, str], **headers: str) -> dict[str, object]:
        data = urllib.parse.urlencode(fields).encode() if verb != "GET" else None
        asked = urllib.request.Request(f"{url}/api2/json{path}", data, headers, method=verb)  # noqa: S310
        with urllib.request.urlopen(asked, context=context) as answer:  # noqa: S310
            found = json.load(answer)["data"]
        return found if isinstance(found, dict) else {}

    who = {"username": "root@pam", "password": "secret"}
    ticket = call("POST", "/access/ticket", who)
    session = {
        "Cookie": f"PVEAuthCookie={ticket['ticket']}",
        "CSRFPreventionToken": str(ticket["CSRFPreventionToken"]),
    }
    return json.dumps(call(verb, path, fields, **session))


@contextmanager
def fake_proxmox(folder: Path) -> Iterator[str]:
    """Run fakepve with a VM whose balloon is off and one with defaults; yield its URL."""
    pytest.importorskip("fakepve", reason="fakepve is missing: `./run test` installs it")
    guests = [
        {"vmid": 101, "name": "web", "config": {"balloon": 0, "memory": 2048}},
        {"vmid": 102, "name": "db", "config": {"memory": 2048}},
    ]
    (folder / "guests.json").write_text(json.dumps({"guests": guests}))
    words = [sys.executable, "-m", "fakepve", str(folder / "guests.json"), "--port", "0"]
    with subprocess.Popen(
        [*words, "--host", "127.0.0.1"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert "listening on" in line, line
            yield line.rpartition(" ")[2].strip()
        finally:
            process.terminate()


def program(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_proxmoxs_vm_is_shown_changed_and_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_proxmox(tmp_path) as url:
        here = str(Path(__file__).parent)
        program(
            tmp_path,
            "pvesh",
            PVESH.format(python=sys.executable, here=here, url=url),
            monkeypatch,
        )

        def balloon() -> object:
            return json.loads(api(url, "GET", "/nodes/pve1/qemu/101/config", {})).get("balloon")

        assert main(["enable", "101", "--manager", "proxmox"]) == 0
        shown = capsys.readouterr().out
        assert "-balloon: 0" in shown
        assert "nothing was changed; --yes" in shown
        assert balloon() is not None
        assert main(["enable", "101", "--manager", "proxmox", "--yes"]) == 0
        assert "qm shutdown 101" in capsys.readouterr().out
        assert balloon() is None
        for vmid in ("101", "102"):
            assert main(["enable", vmid, "--manager", "proxmox", "--yes"]) == 0
            assert "it is so already" in capsys.readouterr().out
        assert main(["enable", "101", "--manager", "proxmox", "--yes", "--undo"]) == 0
        assert balloon() is not None
        assert main(["enable", "199", "--manager", "proxmox"]) == 1
        assert "199" in capsys.readouterr().err


def test_incus_vm_is_shown_changed_and_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "vm.json"
    vm = {"type": "virtual-machine", "status": "Running", "config": {}, "expanded_config": {}}
    state.write_text(json.dumps(vm))
    program(tmp_path, "incus", INCUS.format(python=sys.executable, state=str(state)), monkeypatch)
    words = ["enable", "web", "--manager", "incus"]
    assert main(words) == 0
    assert '+free-page-reporting = "on"' in capsys.readouterr().out
    assert main([*words, "--yes"]) == 2
    assert "incus stop --project default web" in capsys.readouterr().err
    state.write_text(json.dumps({**vm, "status": "Stopped"}))
    assert main([*words, "--yes"]) == 0
    assert "free-page-reporting" in json.loads(state.read_text())["config"]["raw.qemu.conf"]
    assert main([*words, "--yes", "--undo"]) == 0
    assert json.loads(state.read_text())["config"] == {}


def test_a_manager_that_is_not_here_and_options_without_effect(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["enable", "101", "--manager", "proxmox"]) == 2
    assert "pvesh is not on PATH: run this on the host" in capsys.readouterr().err
    assert main(["enable", "web", "--manager", "incus", "--statistics"]) == 2
    assert "leave --agent-port" in capsys.readouterr().err
