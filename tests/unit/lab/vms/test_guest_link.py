"""The lab's guest side and the host's end of it: protocol, workload, hostile answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import VmError
from giveback.guest.protocol import StepEvent
from giveback_agent.host_link.link import PORT_NAME as AGENT_PORT_IN_GUEST
from giveback_lab.demo.recorder import MOST_MARKS, MOST_PHASES, GuestRecorder
from giveback_lab.images.image import Image
from giveback_lab.vms.emulator import Emulator
from giveback_lab.vms.guest_link import KEPT_BYTES, KEPT_LINES, GuestLink
from giveback_lab.vms.vm import AGENT_PORT, LAB_PORT, LabVm, VmSpec, command_line
from giveback_lab_guest import serve
from giveback_lab_guest.works import demo as work

MIB = 1 << 20
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


class Peer:
    """The host's end of a socket pair; a real `serve.Server` answers at the other end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")

    def send(self, line: bytes) -> None:
        self._connection.sendall(line + b"\n")

    def ask(self, **request: object) -> list[dict[str, Any]]:
        """Send a request with an id; return its events up to the last."""
        self.send(json.dumps(request).encode())
        return self.until_exit(request.get("id"))

    def until_exit(self, number: object) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while True:
            event = json.loads(self._lines.readline())
            if event.get("id") == number:
                events.append(event)
                if event["event"] == "exit":
                    return events

    def next_of(self, kind: str) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = json.loads(self._lines.readline())
            if event["event"] == kind:
                return event

    def close(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._connection.close()


@contextmanager
def serving() -> Iterator[Peer]:
    host, guest = socket.socketpair()
    host.settimeout(20)
    source = guest.makefile("rb")
    server = serve.Server(source, guest.sendall, reopens=False)
    thread = threading.Thread(target=server.run)
    thread.start()
    peer = Peer(host)
    try:
        yield peer
    finally:
        peer.close()
        thread.join(20)
        source.close()
        guest.close()
        assert not thread.is_alive()


def test_exec_streams_lines_and_ends_with_the_code() -> None:
    with serving() as peer:
        assert peer.next_of("hello")["kernel"] == os.uname().release
        *lines, end = peer.ask(id=1, do="exec", argv=["sh", "-c", "echo a; echo b >&2; exit 3"])
    assert [e["line"] for e in lines] == ["a", "b"]
    assert end["code"] == 3


def test_spawn_outlives_its_request_and_kill_ends_it() -> None:
    with serving() as peer:
        pid = peer.ask(id=1, do="spawn", argv=["sleep", "60"])[-1]["pid"]
        assert peer.ask(id=2, do="kill", pid=pid, signal=signal.SIGKILL)[-1]["code"] == 0
        assert peer.next_of("ended")["code"] == -signal.SIGKILL


def test_put_and_sample(tmp_path: Path) -> None:
    with serving() as peer:
        data = base64.b64encode(b"\0\xff").decode()
        assert peer.ask(id=1, do="put", path=str(tmp_path / "f"), data=data)[-1]["code"] == 0
        assert peer.ask(id=2, do="sample", period_s=0.05)[-1]["code"] == 0
        sample = peer.next_of("sample")
    assert (tmp_path / "f").read_bytes() == b"\0\xff"
    assert sample["files"]["/proc/meminfo"].startswith("MemTotal:")


def test_a_look_is_a_sample_and_then_an_end() -> None:
    with serving() as peer:
        peer.send(json.dumps({"id": 4, "do": "look"}).encode())
        assert peer.next_of("sample")["files"]["/proc/meminfo"].startswith("MemTotal:")
        assert peer.next_of("exit") | {"t": 0} == {"event": "exit", "id": 4, "code": 0, "t": 0}


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "exec", "argv": ["/no/such/program"]}, {"do": "exec"}, {"do": "spawn", "argv": 3},
        {"do": "kill", "pid": 2**30, "signal": 9}, {"do": "put", "path": "/no/f", "data": "x"},
        {"do": "fly"}, {}, {"do": ["exec"]},
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_carried_out_ends_with_a_reason(request_: dict[str, Any]) -> None:
    with serving() as peer:
        end = peer.ask(id=9, **request_)[-1]
        assert end["code"] != 0
        assert end["reason"]
        assert peer.ask(id=10, do="exec", argv=["true"])[-1]["code"] == 0


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 50_000])
def test_a_line_that_is_no_request_does_not_end_the_server(line: bytes) -> None:
    with serving() as peer:
        peer.send(line)
        assert peer.ask(id=1, do="exec", argv=["true"])[-1]["code"] == 0


def test_a_guest_without_the_port_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    if serve.find_port(serve.PORT_NAME) is not None:
        pytest.skip("this machine is a lab guest")
    assert serve.serve() == 1
    assert serve.PORT_NAME in capsys.readouterr().err


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def a_day(folder: Path, seed: int) -> str:
    folder.mkdir()
    day = work.Day(str(folder), 256 * MIB, seed, 0.02)
    for _, act in day.phases():
        act()
    return digest(folder)


def test_the_work_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first = a_day(tmp_path / "a", 1)
    assert first == a_day(tmp_path / "b", 1)
    assert first != a_day(tmp_path / "c", 2)


def test_the_work_says_its_phases_and_its_working_set_can_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert work.work([str(tmp_path), str(256 * MIB), "1", "0.02"]) == 0
    said = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    phases = [s["phase"] for s in said if "phase" in s]
    assert phases[0] == "checkout"
    assert phases[-1] == "clean"
    assert said[-1]["done"]
    assert 0 < said[-1]["hot_bytes"] < 256 * MIB
    assert work.reread([str(tmp_path)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert 0 < again["bytes"] <= said[-1]["hot_bytes"]


# --- the host's end ---------------------------------------------------------------------------


IMAGE = Image(Path("/k/vmlinuz"), "6.12.0", Path("/i/initrd"), Path("/r/root.ext4"))
EMULATOR = Emulator(Path("/q/qemu-system-x86_64"), "10.0.2", ("-L", "/fw"))


def test_ports_have_the_names_that_the_guest_looks_for() -> None:
    assert serve.PORT_NAME == LAB_PORT
    assert AGENT_PORT_IN_GUEST == AGENT_PORT


@pytest.mark.parametrize("reporting", [True, False])
def test_qemus_command_line(reporting: bool) -> None:
    spec = VmSpec("x", 512 * MIB, 2, "tcg", reporting, kernel_arguments="quiet")
    words = command_line(spec, IMAGE, EMULATOR, Path("/f"))
    assert words[:3] == ["/q/qemu-system-x86_64", "-L", "/fw"]
    after = {words[i]: words[i + 1] for i in range(len(words) - 1)}
    assert after["-m"] == "512M"
    assert after["-smp"] == "2"
    assert after["-object"] == "memory-backend-memfd,id=ram,size=512M,share=on"
    assert after["-machine"].endswith("memory-backend=ram")
    assert after["-append"].endswith(" quiet")
    wanted = f"virtio-balloon-pci,id=balloon,free-page-reporting={'on' if reporting else 'off'}"
    assert wanted in words
    assert "-no-reboot" in words
    assert not any(word.startswith("user,") or word == "-nic" for word in words)


def test_kvm_uses_the_hosts_cpu() -> None:
    words = command_line(VmSpec("x", MIB, 1, "kvm"), IMAGE, EMULATOR, Path("/f"))
    assert words[words.index("-accel") + 1] == "kvm"
    assert words[words.index("-cpu") + 1] == "host"


class Guest:
    """A guest that sends scripted lines over a real socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[bytes] = []

    async def __aenter__(self) -> GuestLink:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        link = GuestLink("vm")
        await link.connect(str(self.path))
        return link

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for answer in self.answers:
            writer.write(answer + b"\n")
            await writer.drain()
        writer.close()


def run_against(path: Path, answers: list[bytes]) -> tuple[int, tuple[str, ...]]:
    async def main() -> tuple[int, tuple[str, ...]]:
        guest = Guest(path)
        guest.answers = answers
        async with guest as link:
            try:
                result = await link.exec("x", timeout_s=20)
            finally:
                await link.close()
        return result.code, result.lines

    return asyncio.run(main())


END = b'{"event":"exit","id":1,"code":0}'


def test_noise_between_a_guests_answers_is_passed_over(tmp_path: Path) -> None:
    noise = [
        b"", b"null", b"[1]", b"{", b"\xff", b"[" * 50_000, b'{"event":"line","id":[1]}',
        b'{"event":"exit","id":{}}', b'{"event":"line","id":1}', b'{"event":"exit","id":77}',
    ]  # fmt: skip
    assert run_against(tmp_path / "s", [*noise, END]) == (0, ("",))


@pytest.mark.parametrize(
    "answer", [b'{"event":"exit","id":1}', b'{"event":"exit","id":1,"code":"x"}', b"x" * (5 << 20)]
)
def test_an_answer_that_makes_no_sense_is_an_error(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(VmError, match="vm: "):
        run_against(tmp_path / "s", [answer])


def test_a_guest_that_hangs_up_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="ended"):
        run_against(tmp_path / "s", [])


def test_a_guest_that_prints_for_ever_does_not_fill_the_host(tmp_path: Path) -> None:
    row = json.dumps({"event": "line", "id": 1, "line": "x" * 1000}).encode()
    code, lines = run_against(tmp_path / "s", [row] * 20_000 + [END])
    assert code == 0
    assert len(lines) <= KEPT_LINES
    assert sum(map(len, lines)) <= KEPT_BYTES


@pytest.fixture
def recorder() -> Iterator[GuestRecorder]:
    vm = LabVm(VmSpec("giveback", 64 * MIB, 1, "tcg"), IMAGE, EMULATOR)
    yield GuestRecorder(vm, "giveback", "", 0.0)
    asyncio.run(vm.stop())


MEMINFO = Path("/proc/meminfo").read_text()
BUDDY = "Node 0, zone DMA32 1 1 1 1 1 1 1 1 1 1 90\n"


@pytest.mark.parametrize(
    "files",
    [
        None, 3, [], {}, {"/proc/meminfo": 3, "/proc/buddyinfo": BUDDY},
        {"/proc/meminfo": "\ud800", "/proc/buddyinfo": BUDDY},
        {"/proc/meminfo": MEMINFO, "/proc/buddyinfo": BUDDY},  # the host's own: more than the VM has
        {"/proc/meminfo": MEMINFO, "/proc/buddyinfo": "Node x"},
    ],
)  # fmt: skip
def test_a_sample_that_makes_no_sense_is_left_out(recorder: GuestRecorder, files: object) -> None:
    recorder.take_guest_sample({"event": "sample", "files": files})
    assert recorder.view is None


def test_a_sound_sample_is_kept(recorder: GuestRecorder) -> None:
    recorder.vm.spec = replace(recorder.vm.spec, ram_bytes=1 << 50)
    files = {path: Path(path).read_text() for path in serve.SAMPLED_FILES}
    recorder.take_guest_sample({"event": "sample", "files": files})
    assert recorder.view is not None
    assert recorder.view.meminfo.mem_total_bytes > 0


@given(said=JSON.map(json.dumps) | st.text())
def test_any_line_of_the_work(said: str) -> None:
    vm = LabVm(VmSpec("giveback", 512 * MIB, 1, "tcg"), IMAGE, EMULATOR)
    try:
        GuestRecorder(vm, "giveback", "", 0.0).take_work_line(said)
    finally:
        vm._folder.remove()


def test_the_works_words_are_bounded(recorder: GuestRecorder) -> None:
    for number in range(MOST_PHASES + 50):
        recorder.take_work_line(json.dumps({"phase": f"\x1b[2J{number}" * 50}))
    assert len(recorder.phases) <= MOST_PHASES + 1
    assert all(p.name.isprintable() and len(p.name) <= 40 for p in recorder.phases)
    for _ in range(MOST_MARKS + 50):
        recorder.mark(StepEvent("x", "compact"))
    assert len(recorder.marks) == MOST_MARKS
    recorder.mark(StepEvent("x", "no such step"))
    assert len(recorder.marks) == MOST_MARKS


@pytest.mark.parametrize("hot", [None, "x", -5, 10**18, [1]])
def test_a_hostile_working_set_stays_within_the_vm(recorder: GuestRecorder, hot: object) -> None:
    recorder.take_work_line(json.dumps({"done": True, "hot_bytes": hot}))
    assert recorder.work_end_s is not None
    assert 0 <= recorder.hot_bytes <= recorder.vm.spec.ram_bytes
