"""Proxmox VE's auto-ballooning from the host, over QMP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qemu.qmp import QMPError

from giveback.errors import VmError
from giveback_lab.bench.strategies import proxmox_rule as rule
from giveback_lab.bench.strategies.proxmox_rule import BalloonVm
from giveback_lab.bench.strategy import CannotRun, Strategy
from giveback_lab.packages.cache import content_key
from giveback_lab.vms.agent import AgentLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from giveback_lab.vms.vm import LabVm

BALLOON_PATH = "/machine/peripheral/balloon"
ANSWER_DEADLINE_S = 20.0
DEFLATE_DEADLINE_S = 60.0
POLL_S = 0.2
# The minimum of each VM: the administrator sets it, it is not a constant of Proxmox.
LEAST_DIVISOR = 2


class Ballooning:
    """pvestatd's loop over the lab's VMs; when it stops, their balloons are empty again."""

    guest_pids: Mapping[str, tuple[int, ...]]

    def __init__(self, vms: Sequence[LabVm], host_bytes: int) -> None:
        self.guest_pids = {}
        self.problems: list[str] = []
        self._log = AgentLog()
        self._vms = tuple(vms)
        self._host_bytes = host_bytes
        self._task: asyncio.Task[None] | None = None

    @property
    def log(self) -> str:
        """Return a line per change, each with its VM's name."""
        return self._log.text

    async def start(self) -> None:
        """Turn on the guests' statistics and start the loop. Raises CannotRun and VmError."""
        for vm in self._vms:
            await _qmp(
                vm, "qom-set", path=BALLOON_PATH, property="guest-stats-polling-interval",
                value=rule.STATS_PERIOD_S,
            )  # fmt: skip
            await _size(vm)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop the loop and empty the balloons."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for vm in self._vms:
            try:
                await self._deflate(vm)
            except VmError as error:
                self.problems.append(str(error))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(rule.PERIOD_S)
            try:
                await self._pass()
            except VmError as error:
                if str(error) not in self.problems:
                    self.problems.append(str(error))

    async def _pass(self) -> None:
        if not all([await _is_running(vm) for vm in self._vms]):
            # Frozen by the benchmark: a guest whose clock is stopped must not be judged.
            return
        seen = [await _look(vm) for vm in self._vms]
        used = sum(vm.resident_bytes() for vm in self._vms)
        sizes = rule.decide(seen, rule.goal_bytes(self._host_bytes, used))
        for vm, now in zip(self._vms, seen, strict=True):
            size = sizes.get(vm.spec.name)
            if size is None:
                continue
            self._log.take(f"{vm.spec.name}: {now.size_bytes >> 20} -> {size >> 20} MiB")
            await _qmp(vm, "balloon", value=size)

    async def _deflate(self, vm: LabVm) -> None:
        await _qmp(vm, "balloon", value=vm.spec.ram_bytes)
        end_s = time.monotonic() + DEFLATE_DEADLINE_S
        while await _size(vm) < vm.spec.ram_bytes:
            if time.monotonic() > end_s:
                raise VmError(f"{vm.spec.name}: its balloon does not deflate")
            await asyncio.sleep(POLL_S)


async def _look(vm: LabVm) -> BalloonVm:
    stats = await _qmp(vm, "qom-get", path=BALLOON_PATH, property="guest-stats")
    return BalloonVm(
        name=vm.spec.name,
        size_bytes=await _size(vm),
        least_bytes=vm.spec.ram_bytes // LEAST_DIVISOR,
        most_bytes=vm.spec.ram_bytes,
        free_bytes=free_bytes(stats, vm.spec.ram_bytes),
    )


def free_bytes(stats: object, ram_bytes: int) -> int | None:
    """Return stat-free-memory of QEMU's guest-stats, or None if the guest sent none (QEMU: 2^64 - 1)."""
    inner = stats.get("stats") if isinstance(stats, dict) else None
    value = inner.get("stat-free-memory") if isinstance(inner, dict) else None
    return value if isinstance(value, int) and 0 <= value <= ram_bytes else None


async def _is_running(vm: LabVm) -> bool:
    answer = await _qmp(vm, "query-status")
    return isinstance(answer, dict) and answer.get("running") is True


async def _size(vm: LabVm) -> int:
    answer = await _qmp(vm, "query-balloon")
    actual = answer.get("actual") if isinstance(answer, dict) else None
    if not isinstance(actual, int):
        raise CannotRun(f"{vm.spec.name}: no balloon")
    return actual


async def _qmp(vm: LabVm, command: str, **arguments: Any) -> object:  # noqa: ANN401  # QMP's own
    try:
        return await vm.watch(
            vm.qmp.execute(command, arguments), ANSWER_DEADLINE_S, f"QMP {command}"
        )
    except QMPError as error:
        raise VmError(f"{vm.spec.name}: QMP {command}: {error}") from error


async def _start(vms: Sequence[LabVm], host_bytes: int) -> Ballooning:
    running = Ballooning(vms, host_bytes)
    await running.start()
    return running


PROXMOX = Strategy(
    name="proxmox",
    title="Proxmox VE's auto-ballooning, with free page reporting (re-implementation)",
    source="proxmox/pve-manager 14a22df, PVE/AutoBalloon.pm and PVE/Service/pvestatd.pm",
    start=_start,
    version=content_key(Path(rule.__file__).read_bytes()),
)
