"""Measure one row: boot, start the agent, let a process with cold cache end, and see what comes back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from giveback.errors import VmError
from giveback.guest.protocol import parse_object
from giveback.guest.zipapps import agent_zipapp, lab_guest_zipapp
from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.bench.run.measure import bench_in_guest, parse_guest_sample, used
from giveback_lab.images.debian_files import WITHOUT_AGENT
from giveback_lab.images.image import GUEST_AGENT
from giveback_lab.matrix.results import EndFigures, RowFigures, RowResult
from giveback_lab.packages.cache import content_key
from giveback_lab.vms.accel import choose_accel
from giveback_lab.vms.agent import start_agent
from giveback_lab.vms.lab import guest_kind, prepare_lab
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_lab.matrix.rows import MatrixRow
    from giveback_lab.vms.guest_link import Event
    from giveback_lab.vms.lab import Lab

FOLDER = "/work/ended"
SEED, CPUS = 1, 2
SETTLE_S = 20.0
SOON_S, LATE_S = 15.0, 60.0
STEP_DEADLINE_S = 600.0
LOW_PERCENT = 60.0
PEAK_PERIOD_S = 0.5
TEXT_LIMIT = 200
# The doctor's checks that say by which methods cache and free memory can be returned.
DECISIVE = ("reclaim", "lru", "cgroup", "swappiness", "report", "damon")


class MatrixVm:
    """A row's VM with its agent running."""

    def __init__(self, vm: LabVm) -> None:
        self.vm = vm
        self._last: Event = {}
        vm.guest.on_sample = self._take

    def _take(self, event: Event) -> None:
        self._last = event

    async def ended(self, step: str, part: str = "-") -> dict[str, Any]:
        """Run a step of the guest's program `ended`. Raises VmError."""
        words = ("ended", step, part, FOLDER, str(self.vm.spec.ram_bytes), str(SEED))
        return await bench_in_guest(self.vm, *words, deadline_s=STEP_DEADLINE_S)

    async def cached(self, part: str) -> int:
        """Return the bytes of a part's files that are in the guest's page cache. Raises VmError."""
        return int((await self.ended("cached", part))["bytes"])

    async def used_bytes(self) -> int | None:
        """Return the bytes of its RAM that the guest uses now."""
        await self.vm.watch(self.vm.guest.sample_now(), STEP_DEADLINE_S, "a sample")
        memory = parse_guest_sample(self._last, self.vm.spec.ram_bytes)
        return None if memory is None else used(memory, self.vm.spec.ram_bytes, 0)

    async def agent_says(self, command: str) -> dict[str, Any]:
        """Return the JSON of one of the agent's commands; empty if it printed none."""
        words = ("python3", GUEST_AGENT, command, "--json")
        done = await self.vm.watch(
            self.vm.guest.exec(*words, timeout_s=STEP_DEADLINE_S), STEP_DEADLINE_S, command
        )
        return parse_object(done.text)


def version_of(qemu_version: str, mem_bytes: int) -> str:
    """Return a key of everything besides the kernel that decides a row's figures."""
    return content_key(agent_zipapp(), lab_guest_zipapp(), qemu_version, str(mem_bytes))


async def measure(row: MatrixRow, lab: Lab, accel: str, mem_bytes: int) -> RowFigures:
    """Boot the row's guest, measure it and clean up. Raises VmError."""
    spec = VmSpec(
        row.key, mem_bytes, CPUS, accel, work_disk_bytes=3 * mem_bytes,
        kernel_arguments=WITHOUT_AGENT if lab.image.has_systemd else "",
    )  # fmt: skip
    async with LabVm(spec, lab.image, lab.emulator) as vm:
        guest = MatrixVm(vm)
        await start_agent(vm)
        parts = [str(name) for name in (await guest.ended("prepare"))["parts"]]
        hot_bytes = await guest.cached("hot")
        await asyncio.sleep(SETTLE_S)
        before_bytes = 0
        ends = []
        for part in parts:
            figures, resident_bytes = await _end(guest, part)
            before_bytes = before_bytes or resident_bytes
            ends.append(figures)
        used_bytes = await guest.used_bytes()
        after_bytes = vm.resident_bytes()
        hot_lost_bytes = max(0, hot_bytes - await guest.cached("hot"))
        status, doctor = await guest.agent_says("status"), await guest.agent_says("doctor")
        low = any(one.back_60_percent < LOW_PERCENT for one in ends)
        return RowFigures(
            release=lab.kernel.release,
            resident_before_bytes=before_bytes,
            resident_after_bytes=after_bytes,
            residue_bytes=max(0, after_bytes - (used_bytes or after_bytes)),
            cold_left_bytes=_amount(status.get("guest"), "cold_cache_bytes"),
            ends=tuple(ends),
            hot_bytes=hot_bytes,
            hot_lost_bytes=hot_lost_bytes,
            method=methods(status),
            reason=reasons(doctor) if low else "",
        )


async def _end(guest: MatrixVm, part: str) -> tuple[EndFigures, int]:
    """Run a part to its end; return its figures and the resident bytes at its end."""
    ending = asyncio.ensure_future(guest.ended("end", part))
    resident_bytes = guest.vm.resident_bytes()
    # An agent may be faster than the guest's answer, so resident is sampled while waiting for that.
    while not ending.done():
        await asyncio.wait({ending}, timeout=PEAK_PERIOD_S)
        resident_bytes = max(resident_bytes, guest.vm.resident_bytes())
    ended_s, cold_bytes = time.monotonic(), int(ending.result()["bytes"])
    if cold_bytes <= 0:
        raise VmError(
            f"{guest.vm.spec.name}: {part}: none of the files it read is in the page cache"
        )
    back = []
    for moment_s in (SOON_S, LATE_S):
        await asyncio.sleep(max(0.0, ended_s + moment_s - time.monotonic()))
        from_host = resident_bytes - guest.vm.resident_bytes()
        in_guest = cold_bytes - await guest.cached(part)
        back.append(back_percent(cold_bytes, in_guest, from_host))
    return EndFigures(part, cold_bytes, back[0], back[1]), resident_bytes


def back_percent(cold_bytes: int, dropped_bytes: int, returned_bytes: int) -> float:
    """Return the percentage of the cold cache that the guest has dropped and the host has back."""
    if cold_bytes <= 0:
        return 100.0
    share = min(dropped_bytes, returned_bytes) / cold_bytes
    return round(100.0 * min(1.0, max(0.0, share)), 1)


def methods(status: dict[str, Any]) -> str:
    """Return the kinds of steps in the agent's last passes, the one that freed most first."""
    freed: dict[str, int] = {}
    agent = status.get("agent")
    passes = agent.get("last_passes") if isinstance(agent, dict) else None
    for one in passes if isinstance(passes, list) else []:
        steps = one.get("steps") if isinstance(one, dict) else None
        for step in steps if isinstance(steps, list) else []:
            kind, gain = str(step.get("kind")), step.get("gain_bytes")
            freed[kind] = freed.get(kind, 0) + (gain if isinstance(gain, int) else 0)
    order = sorted((kind for kind in freed if freed[kind] > 0), key=lambda kind: -freed[kind])
    nothing = "none that freed memory" if freed else "no pass"
    return escape_for_terminal(", ".join(order) or nothing, TEXT_LIMIT)


def reasons(doctor: dict[str, Any]) -> str:
    """Return what the agent's doctor finds missing in this guest."""
    checks = doctor.get("checks")
    found = [
        f"{one.get('name')}: {one.get('evidence')}"
        for one in (checks if isinstance(checks, list) else [])
        if isinstance(one, dict)
        and one.get("verdict") in ("warn", "bad")
        and any(word in str(one.get("name")).lower() for word in DECISIVE)
    ]
    return escape_for_terminal("; ".join(found) or "doctor finds nothing missing", TEXT_LIMIT)


def _amount(of: object, name: str) -> int | None:
    value = of.get(name) if isinstance(of, dict) else None
    return value if isinstance(value, int) and value >= 0 else None


async def measured(row: MatrixRow, lab: Lab, accel: str, mem_bytes: int, version: str) -> RowResult:
    """Measure a row; return a result that can be stored. A failed one has the reason."""
    began_s = time.monotonic()
    try:
        figures = await measure(row, lab, accel, mem_bytes)
    except (VmError, KeyError, TypeError, ValueError) as error:
        failure = escape_for_terminal(str(error), TEXT_LIMIT)
        return RowResult(row, version, round(time.monotonic() - began_s, 1), None, failure)
    return RowResult(row, version, round(time.monotonic() - began_s, 1), figures)


async def prepared(row: MatrixRow, say: Callable[[str], None]) -> tuple[Lab, str]:
    """Prepare a row's guest, QEMU and accelerator. Raises InputError."""
    kind = guest_kind(row.guest, row.machine)
    lab = await asyncio.to_thread(prepare_lab, row.kernel, None, say, kind)
    return lab, (await choose_accel("auto", lab.image, lab.emulator)).name
