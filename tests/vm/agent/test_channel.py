"""The live channel: the agent of a real guest answers `giveback` over virtio-serial."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest

from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_lab.vms.accel import Accel
    from giveback_lab.vms.lab import Lab

RAM_BYTES = 1 << 30
# Another run of the tests on this host has a VM of its own.
NAME = f"channel-{os.getpid()}"
DEADLINE_S = 120.0
AGENT = ("python3", "/run/giveback-agent.pyz", "run")

Document = dict[str, object]
Said = dict[str, Document]


@pytest.fixture(scope="module")
def said(lab: Lab, accel: Accel) -> Said:
    return asyncio.run(
        conversation(LabVm(VmSpec(NAME, RAM_BYTES, 1, accel.name), lab.image, lab.emulator))
    )


async def conversation(lab_vm: LabVm) -> Said:
    """Do everything with one guest; the tests check the results."""
    async with lab_vm as vm:
        found: Said = {}
        await vm.qmp.disconnect()
        found["no agent"] = await until(lambda d: "no giveback-agent runs" in json.dumps(d))
        agent = await vm.guest.spawn(*AGENT)
        found["sampled"] = await until(agent_answers)
        await settled(vm)
        found["exact"] = await explained("--exact")
        found["idle"] = {"switches": await switches_of(vm, agent, 5)}
        held = connected(str(vm.agent_socket))
        found["held"] = await explained()
        held.sendall(b'{"v": 1, "id": 3, "urgency": 2, "lease_s": 600}\n')
        found["urgency"] = await event(held, "urgency")
        # The host's client stays while the agent is killed and another one comes.
        await vm.guest.kill(agent, signal.SIGKILL)
        await vm.guest.spawn(*AGENT)
        found["hello"] = await event(held, "hello")
        held.close()
        found["restarted"] = await until(agent_answers)
        # A client that leaves in the middle of a line, and one in the middle of an answer.
        for words in (b'{"ask": "mem', b'\n{"ask": "pages", "id": 1}\n'):
            leaving = connected(str(vm.agent_socket))
            leaving.sendall(words)
            leaving.close()
        found["after rudeness"] = await until(agent_answers)
        return found


async def explained(*words: str) -> Document:
    """What `giveback explain` says of the VM, as a process of its own."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "giveback", "explain", f"giveback-{NAME}", "--json", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    started_s = time.monotonic()
    out, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    document: Document = json.loads(out)
    return document | {"took_s": time.monotonic() - started_s}


def agent_answers(document: Document) -> bool:
    guest = document["guest"]
    assert isinstance(guest, dict)
    return bool(guest["source"] == "agent")


async def until(wanted: Callable[[Document], bool]) -> Document:
    """Ask until it is so: another program that samples this host's VMs holds the port now and then."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        document = await explained()
        if wanted(document):
            return document
        assert time.monotonic() < deadline, document["notes"]


async def settled(vm: LabVm) -> None:
    """Wait until the agent's first pass is over: resident memory is unchanged for five seconds."""
    same, before = 0, -1
    deadline = time.monotonic() + DEADLINE_S
    while same < 5:
        await asyncio.sleep(1)
        now = vm.resident_bytes()
        same = same + 1 if abs(now - before) < 1 << 18 else 0
        before = now
        assert time.monotonic() < deadline, now


async def switches_of(vm: LabVm, pid: int, seconds: int) -> int:
    """Count the agent's voluntary context switches in this many seconds of the guest."""
    program = (
        "import sys,time\n"
        "def n(): return int(open('/proc/%s/status' % sys.argv[1]).read()"
        ".split('voluntary_ctxt_switches:')[1].split()[0])\n"
        "a = n(); time.sleep(int(sys.argv[2])); print(n() - a)"
    )
    result = await vm.guest.exec("python3", "-c", program, str(pid), str(seconds))
    return int(result.lines[-1])


def connected(path: str) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.connect(path)
    return end


async def event(end: socket.socket, name: str) -> Document:
    """Return the next event of this name that the agent sends."""
    end.setblocking(False)
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            data += await loop.sock_recv(end, 65536)
            *lines, data = data.split(b"\n")
            for line in filter(None, lines):
                message: Document = json.loads(line)
                if message.get("event") == name:
                    return message


def number(document: Document, key: str) -> int:
    value = document[key]
    assert isinstance(value, int)
    return value


def test_the_agent_answers_and_the_rows_add_up(said: Said) -> None:
    for name in ("sampled", "restarted", "after rudeness"):
        document = said[name]
        rows = document["rows"]
        assert isinstance(rows, list)
        assert sum(row["ram_bytes"] for row in rows) == RAM_BYTES
        assert sum(row["host_bytes"] for row in rows) == document["charged_bytes"]
        assert document["problems"] == []
        print(name, f"{document['took_s']:.1f} s")


def test_exact_and_sampled_agree_within_one_percent(said: Said) -> None:
    """Except for pages on per-CPU lists: they count as resident, but are not after a deep report."""
    document = said["exact"]
    exact = document["exact"]
    assert isinstance(exact, dict)
    assert exact["ram_bytes"] == RAM_BYTES
    resident = exact["resident_bytes"] - number(document, "resident_bytes")
    residue = exact["residue_bytes"] - number(document, "residue_bytes")
    print(
        f"exact - sampled: resident {resident / 2**20:.1f} MiB, residue {residue / 2**20:.1f} MiB"
    )
    print(f"explain --exact took {document['took_s']:.1f} s")
    for row in exact["rows"]:
        print(f"{row['label']:<50} {row['resident_bytes'] / 2**20:9.1f}")
    rows = document["rows"]
    assert isinstance(rows, list)
    for row in rows:
        print(f"{row['label']:<50} {row['host_bytes'] / 2**20:9.1f}")
    assert abs(resident) <= RAM_BYTES // 100
    pcp = sum(row["host_bytes"] for row in rows if row["row"] == "pcp")
    assert -RAM_BYTES // 100 <= residue <= pcp + RAM_BYTES // 100


def test_without_an_agent_it_is_said(said: Said) -> None:
    notes = said["no agent"]["notes"]
    assert isinstance(notes, list)
    assert ["no giveback-agent runs there" in note for note in notes] == [True]


def test_a_port_that_another_holds_is_said(said: Said) -> None:
    assert "another program is connected to this port" in json.dumps(said["held"])


def test_a_port_without_a_host_does_not_keep_the_agent_awake(said: Said) -> None:
    print("context switches of an idle agent in 5 s:", said["idle"]["switches"])
    assert number(said["idle"], "switches") < 100


def test_urgency_reaches_the_service(said: Said) -> None:
    assert said["urgency"]["urgency"] == 2


def test_an_agent_that_comes_back_greets_the_client_that_stayed(said: Said) -> None:
    assert said["hello"]["asks"] == ["memory", "pages"]
