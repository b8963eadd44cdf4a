"""Control the balloon and virtio-mem of Cloud Hypervisor and Firecracker over HTTP.

Source: `vm.resize` in vmm/src/api/openapi/cloud-hypervisor.yaml; `PATCH /balloon`, `PATCH
/balloon/statistics` and `PATCH /hotplug/memory` in src/firecracker/swagger/firecracker.yaml. Never run
here against the real programs: they need KVM.
"""

from __future__ import annotations

from giveback.errors import VmError
from giveback.vmm.clients import answers
from giveback.vmm.clients.http import VmmApi, api
from giveback.vmm.control.devices import TIMEOUT_S, BalloonSize, Devices, VirtioMem

_CLOUD = "/api/v1"
_BLOCK_BYTES = 2 << 20
_REGION = "ram"


class CloudHypervisorControl:
    """The control of a Cloud Hypervisor VM, by the path of its `--api-socket`."""

    def __init__(self, path: str, pid: int) -> None:
        self._path = path
        self._pid = pid

    @property
    def address(self) -> str:
        """Implement `Control`."""
        return f"cloud-hypervisor:{self._path}"

    async def devices(self) -> Devices:
        """Implement `Control`."""
        async with api(self._path, self._pid, TIMEOUT_S) as session:
            info = answers.node(await session.get(f"{_CLOUD}/vm.info"))
        memory = answers.node(info, "config", "memory")
        plugged = answers.size(memory, "hotplugged_size") or 0
        most = (answers.size(memory, "size") or 0) + plugged
        actual = answers.size(info, "memory_actual_size")
        balloon = None
        if answers.node(info, "config", "balloon"):
            # If the device does not answer, assume the size that was last configured.
            held = answers.size(answers.node(info, "config", "balloon"), "size") or 0
            balloon = BalloonSize(max(0, most - held) if actual is None else actual, most)
        virtio = memory.get("hotplug_method") == "VirtioMem" and plugged
        return Devices(
            balloon=balloon,
            virtio_mem=(VirtioMem(_REGION, plugged, plugged, _BLOCK_BYTES),) if virtio else (),
        )

    async def set_balloon(self, kept_bytes: int) -> None:
        """Implement `Control`."""
        async with api(self._path, self._pid, TIMEOUT_S) as session:
            memory = await self._memory(session)
            most = memory[0] + memory[1]
            await self._resize(session, "desired_balloon", max(0, most - kept_bytes))

    async def set_virtio_mem(self, device_id: str, requested_bytes: int) -> None:
        """Implement `Control`."""
        del device_id
        async with api(self._path, self._pid, TIMEOUT_S) as session:
            base, _ = await self._memory(session)
            await self._resize(session, "desired_ram", base + requested_bytes)

    async def set_statistics_period(self, period_s: int) -> None:
        """Do nothing: Cloud Hypervisor asks the guest when its API is asked for statistics."""
        del period_s

    async def _memory(self, session: VmmApi) -> tuple[int, int]:
        """Return base memory and plugged memory in bytes. Raises VmError."""
        info = answers.node(await session.get(f"{_CLOUD}/vm.info"), "config", "memory")
        base = answers.size(info, "size")
        if base is None:
            raise VmError(f"{self._path}: vm.info has no memory size: has the VM ended?")
        return base, answers.size(info, "hotplugged_size") or 0

    async def _resize(self, session: VmmApi, name: str, value_bytes: int) -> None:
        await session.send("PUT", f"{_CLOUD}/vm.resize", {name: value_bytes})


class FirecrackerControl:
    """The control of a Firecracker VM, by the path of its `--api-sock`.

    Firecracker's amounts are whole MiB: the amount taken is rounded down.
    """

    def __init__(self, path: str, pid: int) -> None:
        self._path = path
        self._pid = pid

    @property
    def address(self) -> str:
        """Implement `Control`."""
        return f"firecracker:{self._path}"

    async def devices(self) -> Devices:
        """Implement `Control`."""
        async with api(self._path, self._pid, TIMEOUT_S) as session:
            config = answers.node(await session.get("/vm/config"))
            statistics = answers.node(await session.get("/balloon/statistics"))
            hotplug = answers.node(await session.get("/hotplug/memory"))
        most = answers.mib(answers.node(config, "machine-config"), "mem_size_mib") or 0
        balloon = answers.node(config, "balloon")
        held = answers.mib(statistics, "actual_mib")
        if held is None:
            held = answers.mib(balloon, "amount_mib") or 0
        requested = answers.mib(hotplug, "requested_size_mib")
        plugged = answers.mib(hotplug, "plugged_size_mib") or 0
        block = answers.mib(hotplug, "block_size_mib") or _BLOCK_BYTES
        region = VirtioMem(_REGION, plugged if requested is None else requested, plugged, block)
        return Devices(
            balloon=BalloonSize(max(0, most - held), most) if balloon else None,
            virtio_mem=(region,) if hotplug else (),
            statistics_period_s=answers.size(balloon, "stats_polling_interval_s"),
        )

    async def set_balloon(self, kept_bytes: int) -> None:
        """Implement `Control`."""
        async with api(self._path, self._pid, TIMEOUT_S) as session:
            config = answers.node(await session.get("/vm/config"), "machine-config")
            most = answers.mib(config, "mem_size_mib")
            if most is None:
                raise VmError(f"{self._path}: /vm/config has no memory size: has the VM ended?")
            held_mib = max(0, most - kept_bytes) // answers.MIB
            await session.send("PATCH", "/balloon", {"amount_mib": held_mib})

    async def set_virtio_mem(self, device_id: str, requested_bytes: int) -> None:
        """Implement `Control`."""
        del device_id
        async with api(self._path, self._pid, TIMEOUT_S) as session:
            body: dict[str, object] = {"requested_size_mib": requested_bytes // answers.MIB}
            await session.send("PATCH", "/hotplug/memory", body)

    async def set_statistics_period(self, period_s: int) -> None:
        """Implement `Control`. Raises VmError if statistics were off at boot: then they stay off."""
        async with api(self._path, self._pid, TIMEOUT_S) as session:
            body: dict[str, object] = {"stats_polling_interval_s": period_s}
            await session.send("PATCH", "/balloon/statistics", body)
