"""The demo on real guests: what the host measures, and what remains after a failure."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from demo_process import demo_process, is_alive, wait_for

from giveback.errors import InputError, VmError
from giveback_agent.service.pass_log import CLASSIC_LINE, PASS_LINE
from giveback_kernel.units import MIB
from giveback_lab.demo.demo import DemoOptions, booted, record_all, run_demo
from giveback_lab.report.run import DemoRun, VmRun, figures
from giveback_lab.vms import accel as accel_module
from giveback_lab.vms.accel import Accel, choose_accel
from giveback_lab.vms.lab import Lab
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from pathlib import Path

SIGNALLED_WHEN = {
    "booting": (signal.SIGINT, None),
    "at work": (signal.SIGTERM, "running:"),
    "watching": (signal.SIGINT, "watching"),
}


@pytest.fixture(scope="module")
def measured(lab: Lab, accel: Accel, tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """Record a short demo of both VMs, from the workload to well after its end.

    A whole pass takes up to 38 s of the kernel's own periods, plus the guest's CPU time.
    """
    options = DemoOptions(
        mem_bytes=768 * MIB, cpus=1, accel=accel.name, scale=0.3, watch_s=70,
        out=tmp_path_factory.mktemp("out"),
    )  # fmt: skip
    return asyncio.run(run_demo(options, lambda _: None, lambda _: None, lab))


def vm_of(run: DemoRun, name: str) -> VmRun:
    (vm,) = (vm for vm in run.vms if vm.name == name)
    return vm


def test_the_host_gets_memory_back_from_the_giveback_vm(measured: DemoRun) -> None:
    vm = vm_of(measured, "giveback")
    seen = figures(vm)
    assert seen.work_end_bytes is not None
    assert seen.resident_now_bytes is not None
    assert seen.residue_now_bytes is not None
    assert seen.resident_now_bytes < seen.work_end_bytes
    assert seen.residue_now_bytes <= 64 * MIB


def test_the_plain_vm_stays_where_the_work_left_it(measured: DemoRun) -> None:
    seen = figures(vm_of(measured, "plain"))
    assert seen.work_end_bytes is not None
    assert seen.resident_now_bytes is not None
    assert seen.resident_now_bytes >= seen.work_end_bytes - 4 * MIB


def test_the_giveback_vm_holds_less_than_the_plain_one(measured: DemoRun) -> None:
    plain, ours = (figures(vm_of(measured, n)) for n in ("plain", "giveback"))
    assert plain.resident_now_bytes is not None
    assert ours.resident_now_bytes is not None
    assert ours.resident_now_bytes < plain.resident_now_bytes - 32 * MIB


def test_dmesg_says_when_the_agent_ran_and_the_plain_guest_has_no_reporting(
    measured: DemoRun,
) -> None:
    ours = "\n".join(vm_of(measured, "giveback").dmesg)
    assert CLASSIC_LINE in ours or PASS_LINE in ours
    assert "Free page reporting enabled" in ours
    assert "Free page reporting enabled" not in "\n".join(vm_of(measured, "plain").dmesg)
    assert {m.kind for m in vm_of(measured, "giveback").marks}


@pytest.mark.parametrize("when", SIGNALLED_WHEN)
def test_a_signal_at_any_moment(lab: Lab, tmp_path: Path, when: str) -> None:
    number, words = SIGNALLED_WHEN[when]
    with demo_process(tmp_path, "--watch", "100") as demo:
        if words is None:
            demo.qemu()
        else:
            demo.wait_until_it_says(words)
        demo.process.send_signal(number)
        assert demo.ended() == 128 + number
        assert demo.last_line == f"giveback: stopped by {number.name}"
        assert f"serial logs: {demo.out}/giveback-serial.log" in demo.output
        assert b"Linux version" in (demo.out / "giveback-serial.log").read_bytes()


def test_a_signal_before_any_vm_is_started(tmp_path: Path) -> None:
    with demo_process(tmp_path) as demo:
        demo.wait_until_it_says("preparing the guest")
        demo.process.send_signal(signal.SIGTERM)
        assert demo.ended() == 143
        assert demo.last_line == "giveback: stopped by SIGTERM"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGSTOP, "giveback: the guest hangs: no sample for 5 s"),
        (signal.SIGKILL, "giveback: QEMU was killed by SIGKILL during the demo"),
    ],
)
def test_a_guest_that_hangs_or_loses_its_qemu(
    lab: Lab, tmp_path: Path, number: signal.Signals, said: str
) -> None:
    with demo_process(tmp_path, "--watch", "100", "--silence-limit", "5") as demo:
        demo.wait_until_it_says("running:")
        os.kill(demo.qemu(), number)
        assert demo.ended() == 1
        assert said in demo.last_line
        assert f"{demo.out}/giveback-serial.log" in demo.last_line


def test_a_killed_giveback_leaves_no_qemu_and_the_next_one_removes_its_folder(
    lab: Lab, tmp_path: Path
) -> None:
    with demo_process(tmp_path, "--watch", "100") as demo:
        qemu = demo.qemu()
        demo.process.kill()
        demo.process.wait()
        wait_for(lambda: not is_alive(qemu), "QEMU's end", 20)
        (folder,) = demo.temporary.iterdir()
    with demo_process(tmp_path) as demo:
        demo.wait_until_it_says(f"removed {folder}: its giveback was killed")
        assert not folder.exists()
        demo.process.send_signal(signal.SIGTERM)
        assert demo.ended() == 143


def test_a_guest_that_panics(lab: Lab, tmp_path: Path) -> None:
    options = DemoOptions(
        mem_bytes=512 * MIB, cpus=1, compare=False, scale=0.05, watch_s=100, out=tmp_path / "out"
    )
    said: list[str] = []

    async def main() -> None:
        async with booted(options, lab, Accel("tcg", ""), said.append) as vms:
            crash = "echo c > /proc/sysrq-trigger"
            crashing = asyncio.create_task(vms[0].guest.spawn("sh", "-c", crash))
            try:
                await record_all(vms, options, lambda _: None)
            finally:
                await asyncio.gather(crashing, return_exceptions=True)

    with pytest.raises(VmError, match="the guest panicked") as caught:
        asyncio.run(main())
    log = options.out / "giveback-serial.log"
    assert f"serial logs: {log}" in str(caught.value)
    assert "Kernel panic" in log.read_text(errors="replace")


def test_one_vm_that_ends_ends_both(lab: Lab, tmp_path: Path) -> None:
    options = DemoOptions(mem_bytes=512 * MIB, cpus=1, scale=0.05, out=tmp_path / "out")
    pids: list[int] = []

    async def main() -> None:
        async with booted(options, lab, Accel("tcg", ""), lambda _: None) as vms:
            pids.extend(vm.pid for vm in vms)
            os.kill(vms[0].pid, signal.SIGKILL)
            await record_all(vms, options, lambda _: None)

    with pytest.raises(VmError, match="plain: QEMU was killed by SIGKILL"):
        asyncio.run(main())
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


def test_a_boot_that_takes_too_long_ends(lab: Lab) -> None:
    async def main() -> LabVm:
        vm = LabVm(VmSpec("slow", 512 * MIB, 1, "tcg"), lab.image, lab.emulator, 0.5)
        with pytest.raises(VmError, match="slow: boot: the guest did not answer"):
            async with vm:
                pass
        return vm

    vm = asyncio.run(main())
    assert not is_alive(vm.pid)
    assert not vm.folder.exists()


def test_a_qemu_that_does_not_start_says_why(lab: Lab) -> None:
    async def main() -> None:
        broken = replace(lab.emulator, arguments=(*lab.emulator.arguments, "-no-such-option"))
        async with LabVm(VmSpec("broken", 512 * MIB, 1, "tcg"), lab.image, broken):
            pass

    with pytest.raises(VmError, match=r"broken: QEMU ended with code 1 .*no-such-option"):
        asyncio.run(main())


def test_the_accelerator_is_one_under_which_a_guest_answers_and_it_is_remembered(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    async def choose(wanted: str) -> Accel:
        return await choose_accel(wanted, lab.image, lab.emulator, deadline_s=8)

    first = asyncio.run(choose("auto"))
    assert "\n" not in first.reason
    if not accel_module.KVM_DEVICE.exists():
        assert first == Accel("tcg", f"TCG (emulation, slow): {accel_module.KVM_DEVICE} is missing")
        return
    assert first.name in ("kvm", "tcg")
    again = asyncio.run(choose("auto"))
    assert again.name == first.name
    if os.access(accel_module.KVM_DEVICE, os.R_OK | os.W_OK):
        assert "remembered" in again.reason
    if first.name == "tcg":
        with pytest.raises(InputError, match=r"KVM does not work here.*use --accel tcg"):
            asyncio.run(choose("kvm"))


def test_the_command_writes_its_files(lab: Lab, accel: Accel, tmp_path: Path) -> None:
    samples = tmp_path / "all.json"
    words = ("--watch", "2", "--scale", "0.05", "--json", str(samples), "--accel", accel.name)
    with demo_process(tmp_path, *words) as demo:
        assert demo.ended() == 0
        assert {p.name for p in demo.out.iterdir()} == {
            "demo.json", "demo.png", "demo.svg", "demo.html", "giveback-agent.log",
        }  # fmt: skip
        assert (demo.out / "demo.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads(samples.read_text()) == json.loads((demo.out / "demo.json").read_text())
        assert "resident now" in demo.output
