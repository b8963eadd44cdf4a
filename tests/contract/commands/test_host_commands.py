"""ps, explain and doctor, on real processes with real mappings and scripted guests."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

import pytest
from scripted_vmm import Api, listening, process, serving
from scripted_vms import MIB, Agent, Endless, Garbage, Liar, vm

from giveback.cli import main
from giveback.commands._target import CommandTarget
from giveback.guest.observe import observe_all
from giveback.host import smaps
from giveback.vmm.backends.process import ProcessBackend
from giveback.vmm.backends.qemu import QemuBackend

if TYPE_CHECKING:
    from pathlib import Path

    from giveback.vmm.base import VmDescription, VmState


def documents(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    main(list(words))
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


def test_ps_joins_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with vm(tmp_path):
        (one,) = (v for v in documents(capsys, "ps", "--json") if v["name"] == "cmd-one")
    assert one["ram_bytes"] == 64 * MIB
    assert one["resident_bytes"] == 48 * MIB
    assert one["needed_bytes"] == 32 * MIB
    assert one["residue_bytes"] == 16 * MIB
    assert one["reporting"] == "on"
    assert one["guest"] == {"source": "agent", "age_s": 0.0}
    assert one["problems"] == []


def test_a_bad_guest_does_not_affect_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"good": Agent, "liar": Liar, "endless": Endless, "garbage": Garbage}
    with ExitStack() as stack:
        for name, agent in kinds.items():
            stack.enter_context(vm(tmp_path, name, agent))
        seen = {v["name"]: v for v in documents(capsys, "ps", "--json") if v["name"] in kinds}
    assert seen["good"]["residue_bytes"] == 16 * MIB
    for name in ("liar", "endless", "garbage"):
        assert seen[name]["residue_bytes"] is None
        assert seen[name]["resident_bytes"] == 48 * MIB
        assert seen[name]["problems"], name


def test_ps_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "evil\x1b[2J"
    with vm(tmp_path, "cmd-one"), process("/opt/qemu-kvm", "-m", "64M", "-name", name):
        assert main(["ps"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "evil\\x1b[2J" in out
    (line,) = (line for line in out.splitlines() if line.startswith("cmd-one "))
    assert "16 MiB" in line
    assert "▒▒▒▒" in line


def test_ps_with_a_process_that_claims_absurd_ram(capsys: pytest.CaptureFixture[str]) -> None:
    """Any user of the host may name a program qemu."""
    with (
        process("/opt/qemu-kvm", "-m", "0x" + "f" * 400, "-name", "cmd-huge"),
        process("/opt/cloud-hypervisor", "--memory", "size=" + "9" * 39 + "e"),
    ):
        assert main(["ps"]) == 0
    assert any(line.startswith("cmd-huge ") for line in capsys.readouterr().out.splitlines())


def test_ps_with_an_interval(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "giveback", "ps", "--json", "--watch", "0.1"]
    with vm(tmp_path), subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        # One object a line, for each VM each time; other VMs may run on this host.
        times: set[float] = set()
        while len(times) < 2:
            seen = json.loads(watching.stdout.readline())
            times |= {seen["wall_s"]} if seen["name"] == "cmd-one" else set()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130


def test_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with vm(tmp_path) as pid:
        assert main(["explain", str(pid), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main(["explain", "cmd-one", "--svg", str(tmp_path / "a.svg"), "--png",
                     str(tmp_path / "a.png")]) == 0  # fmt: skip
        text = capsys.readouterr().out
    assert sum(row["host_bytes"] for row in found["rows"]) == found["charged_bytes"]
    assert sum(row["ram_bytes"] for row in found["rows"]) == 64 * MIB
    rows = {row["row"]: row["host_bytes"] for row in found["rows"]}
    assert rows["cache_clean"] == (10240 + 1024 - 512 - 64) << 10
    assert rows["free_trapped"] + rows.get("free_waiting", 0) == 16 * MIB
    assert found["guest"]["report_order"] == 9
    assert "what would bring it back:" in text
    # All of its cache is below the 64 MiB that an agent leaves: none of it counts as returnable.
    assert "reclaim the guest's cold page cache" not in text
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_ram_that_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The RAM size of a Firecracker without an API is unknown."""
    with process("firecracker", "--no-api", "--id", "cmd-mute", memory="anonymous:64:48") as found:
        (one,) = (v for v in documents(capsys, "ps", "--json") if v["pid"] == found.pid)
        assert main(["ps"]) == 0
        table = capsys.readouterr().out
        assert main(["explain", "cmd-mute"]) == 0
        text = capsys.readouterr().out
    assert (one["resident_bytes"], one["needed_bytes"], one["residue_bytes"]) == (None, None, None)
    (line,) = (line for line in table.splitlines() if line.startswith("cmd-mute "))
    assert "≤" in line
    assert "guest RAM and the VMM's own memory, not told apart" in text
    assert "= guest RAM, resident" not in text


def test_explain_any_process(capsys: pytest.CaptureFixture[str]) -> None:
    with process("strange-vmm", memory="memfd:64:8") as found:
        assert main(["explain", "--pid", str(found.pid), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["ram_bytes"], told["resident_bytes"]) == (64 * MIB, 8 * MIB)
        assert told["residue_bytes"] is None
        assert main(["explain", "--pid", str(found.pid), "--ram", "64M"]) == 0
        assert "doctor" not in capsys.readouterr().err


def test_explain_with_the_guests_side_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "guest.json"
    file.write_text(json.dumps(Agent.said))
    with process("strange-vmm", memory="memfd:64:48") as found:
        words = ["explain", "--pid", str(found.pid), "--ram", "64M", "--json"]
        assert main([*words, "--guest", str(file)]) == 0
        assert json.loads(capsys.readouterr().out)["residue_bytes"] == 16 * MIB
        assert main([*words, "--guest", str(tmp_path / "none")]) == 2
        file.write_text("[1]")
        assert main([*words, "--guest", str(file)]) == 2
        assert "giveback-agent picture" in capsys.readouterr().err
        assert main(["explain", "--exact", "--pid", str(found.pid)]) == 1
        assert "no channel" in capsys.readouterr().err


class Paged(Agent):
    """An agent that also sends its pages: 16 MiB anonymous, the rest free."""

    def reply(self, asked: dict[str, object]) -> None:
        super().reply(asked)
        if asked["ask"] == "pages":
            data = base64.b64encode(zlib.compress(b"A4096F12288")).decode()
            for part, text in enumerate((data[:8], data[8:])):
                self.write(
                    {"event": "pages", "id": asked["id"], "part": part, "of": 2, "data": text}
                )


class Busy(Paged):
    """An agent that refuses the first request."""

    refused: ClassVar[list[object]] = []

    def reply(self, asked: dict[str, object]) -> None:
        if self.refused:
            super().reply(asked)
        else:
            self.refused.append(asked)
            self.write({"event": "error", "id": asked["id"], "text": "busy", "retry_s": 0.01})


class Unwilling(Agent):
    def reply(self, asked: dict[str, object]) -> None:
        self.write({"event": "error", "id": asked["id"], "text": "no \x1b[2J", "retry_s": 240})


@pytest.mark.parametrize("agent", [Paged, Busy])
def test_exact_asks_the_agent(
    agent: type[Agent], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with vm(tmp_path, agent=agent):
        assert main(["explain", "cmd-one", "--exact", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    exact = found["exact"]
    assert found["guest"]["source"] == "agent"
    assert exact["ram_bytes"] == 64 * MIB
    # The first 48 MiB are resident, of which the guest uses 16.
    assert exact["resident_bytes"] == 48 * MIB
    assert exact["residue_bytes"] == 32 * MIB
    assert exact["free_resident_since"] == []
    assert "assumed from qemu's published layout: 0.0%" in exact["notes"][0]


def test_exact_asks_the_vmm_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inspections: list[bool] = []
    inspect = QemuBackend.inspect

    async def counted(
        self: QemuBackend, vm: VmDescription, *, layout: bool = False, timeout_s: float = 2.0
    ) -> VmState:
        inspections.append(layout)
        return await inspect(self, vm, layout=layout, timeout_s=timeout_s)

    monkeypatch.setattr(QemuBackend, "inspect", counted)
    with vm(tmp_path, agent=Paged):
        assert main(["explain", "cmd-one", "--exact", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exact"]["residue_bytes"] == 32 * MIB
    assert inspections == [True]


class Vsock(Agent):
    """An agent behind Cloud Hypervisor's and Firecracker's vsock, of a guest of 4 GiB or 64 MiB."""

    pages = b"A4096F12288"

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"OK 1073741824\n")
        super().handle()

    def reply(self, asked: dict[str, object]) -> None:
        super().reply(asked)
        if asked["ask"] == "pages":
            data = base64.b64encode(zlib.compress(self.pages)).decode()
            self.write({"event": "pages", "id": asked["id"], "part": 0, "of": 1, "data": data})


class LargeVsock(Vsock):
    """An agent with 8 MiB used from address 0, 2 MiB used from 4 GiB, a hole between, the rest free."""

    pages = b"A2048F784384N262144A512F261632"


def test_exact_of_cloud_hypervisor_around_the_hole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "payload": {},
        "memory": {"size": 4 << 30, "shared": True},
        "vsock": {"cid": 3, "socket": str(tmp_path / "vsock")},
    }
    answers = {"/api/v1/vm.info": (200, {"config": config, "state": "Running"})}
    words = ["--api-socket", f"path={tmp_path}/cmd-large.sock"]
    with (
        process("cloud-hypervisor", *words, memory="memfd:3072:9 memfd:1024:4"),
        serving(tmp_path / "cmd-large.sock", Api("cloud-hypervisor", answers)),
        listening(tmp_path / "vsock", LargeVsock),
    ):
        assert main(["explain", "cmd-large", "--exact", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    exact = found["exact"]
    used = {row["label"]: row["resident_bytes"] for row in exact["rows"]}
    assert exact["ram_bytes"] == 4 << 30
    assert used == {"anonymous": 10 * MIB, "free": 3 * MIB}
    assert exact["residue_bytes"] == 3 * MIB
    assert "assumed from cloud-hypervisor's published layout: 0.0%" in exact["notes"][0]
    assert sum(row["host_bytes"] for row in found["rows"]) == found["charged_bytes"]


def test_exact_of_firecracker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "machine-config": {"mem_size_mib": 64, "vcpu_count": 1},
        "vsock": {"guest_cid": 3, "uds_path": str(tmp_path / "vsock")},
    }
    instance = {"app_name": "Firecracker", "id": "f", "state": "Running", "vmm_version": "1.17"}
    api = Api("firecracker", {"/": (200, instance), "/vm/config": (200, config)})
    words = ["--id", "cmd-small", "--api-sock", str(tmp_path / "f.sock")]
    with (
        process("firecracker", *words, memory="anonymous:64:48"),
        serving(tmp_path / "f.sock", api),
        listening(tmp_path / "vsock", Vsock),
    ):
        assert main(["explain", "cmd-small", "--exact"]) == 0
        text = capsys.readouterr().out
        assert main(["explain", "cmd-small", "--exact", "--json"]) == 0
    exact = json.loads(capsys.readouterr().out)["exact"]
    assert (exact["resident_bytes"], exact["residue_bytes"]) == (48 * MIB, 32 * MIB)
    assert "note: guest addresses are assumed from firecracker's published layout" in text


def test_exact_with_an_interval_shows_ages(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "giveback",
        "explain",
        "cmd-one",
        "--exact",
        "--json",
        "--watch",
        "0.1",
    ]
    with vm(tmp_path, agent=Paged), subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        first, second = (json.loads(watching.stdout.readline()) for _ in range(2))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
    assert first["exact"]["free_resident_since"] == []
    (since,) = second["exact"]["free_resident_since"]
    assert since["resident_bytes"] == 32 * MIB
    assert since["at_least_s"] >= 0.1


def test_exact_says_why_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with vm(tmp_path, agent=Unwilling):
        assert main(["explain", "cmd-one", "--exact"]) == 1
        said = capsys.readouterr().err
        assert "the agent refuses: no \\x1b[2J; it answers again in 4 min" in said
        assert "--guest FILE" in said
    file = tmp_path / "guest.json"
    file.write_text(json.dumps(Agent.said))
    with vm(tmp_path, "cmd-two"):
        assert main(["explain", "cmd-two", "--exact", "--guest", str(file)]) == 2
        assert main(["explain", "cmd-two", "--watch", "1", "--guest", str(file)]) == 2
    file.write_text(
        json.dumps(Agent.said | {"pages": base64.b64encode(zlib.compress(b"F9")).decode()})
    )
    words = ["-m", "64M", "-name", "cmd-three", "-M", "microvm"]
    with process("/opt/qemu-system-x86_64", *words, memory="anonymous:64:48"):
        assert main(["explain", "cmd-three", "--exact", "--guest", str(file)]) == 1
    assert "microvm" in capsys.readouterr().err


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with vm(tmp_path), vm(tmp_path, "cmd-two", balloon=False):
        assert main(["doctor", "cmd-one"]) == 1
        one = capsys.readouterr().out
        assert main(["doctor", "cmd-two", "--json"]) == 1
        (two,) = json.loads(capsys.readouterr().out)
        main(["doctor"])
        everyone = capsys.readouterr().out
    assert "cmd-two" in everyone
    assert "background snapshot is enabled" in everyone
    assert "background snapshot is enabled" in one
    assert "no balloon device" in two["findings"][0]["what"]
    assert "free-page-reporting=on" in two["findings"][0]["remedy"]


class Tainted(ProcessBackend):
    """A backend that records whether it was asked for the layout, which would taint the VM."""

    layout_taints = True

    def __init__(self) -> None:
        self.asked: list[bool] = []

    async def inspect(
        self, vm: VmDescription, *, layout: bool = False, timeout_s: float = 2.0
    ) -> VmState:
        self.asked.append(layout)
        return await super().inspect(vm, layout=layout, timeout_s=timeout_s)


def test_a_stopped_vmm_is_not_waited_for_and_does_not_count_as_without_an_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with vm(tmp_path) as pid:
        os.kill(pid, signal.SIGSTOP)
        try:
            (one,) = (v for v in documents(capsys, "ps", "--json") if v["name"] == "cmd-one")
            assert one["resident_bytes"] == 48 * MIB
            assert main(["doctor", str(pid)]) == 0
        finally:
            os.kill(pid, signal.SIGCONT)
    assert f"kill -CONT {pid} continues it" in str(one["problems"])
    told = capsys.readouterr().out
    assert "the VM is paused" in told
    assert f"kill -CONT {pid}" in told
    assert "install" not in told


def test_the_page_size_of_ram_is_measured() -> None:
    backend = ProcessBackend()
    with process("strange-vmm", memory="memfd:64:8") as found:
        seen = asyncio.run(CommandTarget(backend, backend.describe(found.pid), None).observe())
        text = smaps.read_smaps("/", found.pid)
    (ram,) = (m for m in smaps.parse_smaps(text) if m.size_bytes == 64 * MIB)
    assert seen.host is not None
    assert seen.host.ram_page_bytes == ram.kernel_page_bytes == 4096
    assert seen.host.ram_thp_eligible is ram.thp_eligible
    assert ram.thp_eligible is not None


def test_a_vm_is_not_tainted_if_addresses_are_not_needed() -> None:
    backend = Tainted()
    with process("strange-vmm", memory="memfd:64:8") as found:
        described = backend.describe(found.pid)
        asyncio.run(CommandTarget(backend, described, None).observe())
        asyncio.run(observe_all([(backend, described)], layout=True))
        assert backend.asked == [False, False]
        asyncio.run(CommandTarget(backend, described, dict(Agent.said)).observe_pages())
    assert backend.asked == [False, False, True]


def test_a_vm_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "no such vm"]) == 2
    assert main(["explain", "--pid", "4194305"]) == 2
    assert "no process has the PID" in capsys.readouterr().err
