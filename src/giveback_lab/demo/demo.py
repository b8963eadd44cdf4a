"""The demo: the same workload in a plain VM and in one with giveback, at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from giveback.errors import InputError, VmError
from giveback_kernel import __version__
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.units import MIB
from giveback_lab.demo.recorder import SILENCE_LIMIT_S, GuestRecorder
from giveback_lab.images.debian_files import WITHOUT_AGENT
from giveback_lab.images.image import GUEST_LAB
from giveback_lab.report.run import DemoRun, VmName
from giveback_lab.vms.accel import Accel, choose_accel
from giveback_lab.vms.agent import AgentLog, start_agent
from giveback_lab.vms.lab import DISTRIBUTION, GuestKind, Lab, prepare_lab
from giveback_lab.vms.side_by_side import side_by_side
from giveback_lab.vms.vm import LabVm, VmSpec

WORK_DEADLINE_S = 900.0
SETTLE_S = 5.0
DMESG_ROWS = 100
DMESG_ROW_LIMIT = 400
MIN_MEM_BYTES = 512 * MIB
# QEMU's own memory in addition to the guest's RAM: its translation buffer, its heap, its firmware.
OVERHEAD_BYTES = 300 * MIB
DESCRIPTIONS: dict[VmName, str] = {
    "plain": "no page reporting, no agent",
    "giveback": "free page reporting and giveback-agent",
}
Say = Callable[[str], None]
OnChange = Callable[[DemoRun], None]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The user's options; `kernel` is a path or a series such as "6.1"."""

    mem_bytes: int = 2 << 30
    cpus: int | None = None
    accel: str = "auto"
    kernel: str | None = None
    kind: GuestKind = field(default_factory=GuestKind)
    qemu: Path | None = None
    compare: bool = True
    out: Path = Path("giveback-demo")
    seed: int = 1
    watch_s: float = 90.0
    scale: float = 1.0
    silence_limit_s: float = SILENCE_LIMIT_S

    @property
    def vm_names(self) -> tuple[VmName, ...]:
        """The VMs to run, in the order of the charts."""
        return ("plain", "giveback") if self.compare else ("giveback",)


def check_host(options: DemoOptions) -> None:
    """Check the options against this host before anything is started. Raises InputError."""
    if options.mem_bytes < MIN_MEM_BYTES:
        raise InputError(
            f"--mem {options.mem_bytes // MIB}M: a guest needs at least 512M for this work"
        )
    available = read_meminfo("/").mem_available_bytes
    needed = len(options.vm_names) * (options.mem_bytes + OVERHEAD_BYTES)
    if needed > available:
        raise InputError(
            f"--mem {options.mem_bytes // MIB}M: {len(options.vm_names)} VMs may need "
            f"{needed // MIB} MiB and the host has {available // MIB} MiB: use a smaller --mem, "
            "or --no-compare"
        )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        probe = options.out / ".giveback-writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"--out {options.out}: {error.strerror}: choose a folder that can be written"
        ) from error


async def run_demo(
    options: DemoOptions, say: Say, on_change: OnChange, lab: Lab | None = None
) -> DemoRun:
    """Run the whole demo; call `on_change` each second with the run recorded so far.

    `lab` is the result of `prepare_lab`; without it, it is made here. Raises InputError before a VM
    is started, and VmError if a VM ends, panics or hangs. The guests' serial logs are then in
    `options.out`.
    """
    check_host(options)
    if lab is None:
        lab = prepare_lab(options.kernel, options.qemu, say, options.kind)
    accel = await choose_accel(options.accel, lab.image, lab.emulator)
    say(accel.reason)
    frame = _frame(options, lab, accel)
    say(
        f"booting {len(options.vm_names)} VM{'s' * options.compare}, Linux {lab.kernel.release}, "
        f"QEMU {lab.emulator.version}"
    )
    log = AgentLog()
    async with booted(options, lab, accel, say) as vms:
        await start_agent(vms[-1], log.take)
        recorders = await record_all(vms, options, lambda rs: on_change(_with(frame, rs)))
    with contextlib.suppress(OSError):
        (options.out / "giveback-agent.log").write_text(log.text)
    return _with(frame, recorders)


@contextlib.asynccontextmanager
async def booted(
    options: DemoOptions, lab: Lab, accel: Accel, say: Say
) -> AsyncIterator[list[LabVm]]:
    """Boot the demo's VMs, yield them, and stop them when the block ends, however it ends.

    On an error the guests' serial logs are kept in `options.out`, and VmError names them. If the
    user stopped the demo, a printed line names them.
    """
    vms: list[LabVm] = []
    async with contextlib.AsyncExitStack() as stack:
        for name in options.vm_names:
            vms.append(LabVm(_spec(name, options, accel), lab.image, lab.emulator))
            stack.push_async_callback(vms[-1].stop)
        try:
            await side_by_side(vm.boot() for vm in vms)
            yield vms
        except BaseException as error:
            kept = [str(log) for log in (vm.keep_logs(options.out) for vm in vms) if log]
            words = (
                f"the guests' serial logs: {', '.join(kept)}" if kept else "no guest was started"
            )
            if isinstance(error, VmError):
                raise VmError(f"{error}; {words}") from error
            say(words)
            raise


async def record_all(
    vms: list[LabVm], options: DemoOptions, on_change: Callable[[list[GuestRecorder]], None]
) -> list[GuestRecorder]:
    """Run the workload in all VMs at the same time and record them. Raises VmError."""
    origin_s = time.monotonic() + SETTLE_S
    recorders = [
        GuestRecorder(
            vm, name, DESCRIPTIONS[name], origin_s, silence_limit_s=options.silence_limit_s
        )
        for vm, name in zip(vms, options.vm_names, strict=True)
    ]
    recorders[-1].on_change = lambda: on_change(recorders)
    work_over = asyncio.Barrier(len(recorders))
    await side_by_side(_record(recorder, options, work_over) for recorder in recorders)
    return recorders


async def _record(
    recorder: GuestRecorder, options: DemoOptions, work_over: asyncio.Barrier
) -> None:
    """Record one VM from start to end: start the agent, run the workload, watch, read the last figures."""
    # Sampling ends only with an error; the agent's port may be closed before the recording ends.
    course = side_by_side(
        [_course(recorder, options, work_over), recorder.sample_for_ever()], asyncio.FIRST_COMPLETED
    )
    marking = [recorder.mark_for_ever()] if recorder.name == "giveback" else []
    marks = [asyncio.create_task(one) for one in marking]
    try:
        await recorder.vm.watch(course, WORK_DEADLINE_S + options.watch_s, "the demo")
    finally:
        for task in marks:
            task.cancel()
        await asyncio.gather(*marks, return_exceptions=True)


async def _course(
    recorder: GuestRecorder, options: DemoOptions, work_over: asyncio.Barrier
) -> None:
    guest = recorder.vm.guest
    await asyncio.sleep(max(0.0, recorder.origin_s - time.monotonic()))
    recorder.work_start_s = recorder.now_s()
    words = (str(options.mem_bytes), str(options.seed), str(options.scale))
    done = await guest.exec(
        "python3", GUEST_LAB, "work", "/work", *words,
        on_line=recorder.take_work_line, timeout_s=WORK_DEADLINE_S,
    )  # fmt: skip
    if done.code != 0 or recorder.work_end_s is None:
        said = " / ".join(escape_for_terminal(row) for row in done.lines[-3:])
        raise VmError(f"{recorder.name}: the workload failed in the guest: {said}")
    # Both are watched until the slower one's time is over.
    await work_over.wait()
    await asyncio.sleep(options.watch_s)
    lines = (await guest.exec("dmesg")).lines
    ours = (row for row in lines if "giveback" in row or "Free page reporting" in row)
    recorder.dmesg = tuple(escape_for_terminal(row, DMESG_ROW_LIMIT) for row in ours)[-DMESG_ROWS:]


def _spec(name: VmName, options: DemoOptions, accel: Accel) -> VmSpec:
    share = max(1, (os.cpu_count() or 1) // len(options.vm_names))
    return VmSpec(
        name=name, ram_bytes=options.mem_bytes, cpus=options.cpus or min(4, share),
        accel=accel.name, reporting=name == "giveback", work_disk_bytes=2 * options.mem_bytes,
        # In a distribution guest the agent is installed while it runs, so that both VMs boot alike.
        # alike.
        kernel_arguments=WITHOUT_AGENT if options.kind.guest == DISTRIBUTION else "",
    )  # fmt: skip


def _frame(options: DemoOptions, lab: Lab, accel: Accel) -> DemoRun:
    return DemoRun(
        vms=(),
        accel=accel.name,
        qemu_version=lab.emulator.version,
        kernel_release=lab.kernel.release,
        host=f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs",
        seed=options.seed,
        cpus=_spec("giveback", options, accel).cpus,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        giveback_version=__version__,
    )


def _with(frame: DemoRun, recorders: list[GuestRecorder]) -> DemoRun:
    return replace(frame, vms=tuple(r.run() for r in recorders))
