"""Control QEMU's balloon and virtio-mem over QMP.

Source: qapi/machine.json (`balloon`, `query-balloon`, `query-memory-devices`), docs/interop and
hw/virtio/virtio-mem.c (`requested-size`), hw/virtio/virtio-balloon.c (`guest-stats-polling-interval`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.vmm.backends.qemu import balloon_path
from giveback.vmm.base import amount
from giveback.vmm.control.devices import TIMEOUT_S, BalloonSize, Devices, VirtioMem

if TYPE_CHECKING:
    from giveback.vmm.clients.qmp import Monitor

_VIRTIO_MEM_CHILD = "child<virtio-mem-"
_PARENTS = ("/machine/peripheral", "/machine/peripheral-anon")
_DEVICES_LIMIT = 64


class QemuControl:
    """The control of a QEMU VM, by the path of the QMP socket at which its process `pid` listens."""

    def __init__(self, path: str, pid: int) -> None:
        self._path = path
        self._pid = pid

    @property
    def address(self) -> str:
        """Implement `Control`."""
        return f"qemu:{self._path}"

    async def devices(self) -> Devices:
        """Implement `Control`."""
        from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

        async with monitor(self._path, self._pid, TIMEOUT_S) as session:
            device = await balloon_path(session)
            period = None
            if device is not None:
                period = await session.ask(
                    "qom-get", path=device, property="guest-stats-polling-interval"
                )
            return Devices(
                balloon=await _balloon(session) if device is not None else None,
                virtio_mem=await _virtio_mem(session),
                statistics_period_s=amount(period),
            )

    async def set_balloon(self, kept_bytes: int) -> None:
        """Implement `Control`."""
        from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

        async with monitor(self._path, self._pid, TIMEOUT_S) as session:
            await session.execute("balloon", value=kept_bytes)

    async def set_virtio_mem(self, device_id: str, requested_bytes: int) -> None:
        """Implement `Control`; `device_id` is the device's QOM path."""
        from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

        async with monitor(self._path, self._pid, TIMEOUT_S) as session:
            await session.execute(
                "qom-set", path=device_id, property="requested-size", value=requested_bytes
            )

    async def set_statistics_period(self, period_s: int) -> None:
        """Implement `Control`. Raises VmError if the VM has no balloon."""
        from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

        async with monitor(self._path, self._pid, TIMEOUT_S) as session:
            device = await balloon_path(session)
            if device is None:
                raise VmError(f"{self._path}: this VM has no balloon, hence no statistics")
            await session.execute(
                "qom-set", path=device, property="guest-stats-polling-interval", value=period_s
            )


async def _balloon(session: Monitor) -> BalloonSize | None:
    answer = await session.ask("query-balloon")
    kept = amount(answer.get("actual")) if isinstance(answer, dict) else None
    summary = await session.ask("query-memory-size-summary")
    base = amount(summary.get("base-memory")) if isinstance(summary, dict) else None
    if kept is None or base is None:
        return None
    # The balloon's total includes DIMMs and excludes virtio-mem: get_current_ram_size().
    return BalloonSize(kept, base + dimm_bytes(await session.ask("query-memory-devices")))


def dimm_bytes(answer: object) -> int:
    """Return the bytes of all DIMMs in an answer to `query-memory-devices`."""
    entries = answer if isinstance(answer, list) else []
    datas = [e.get("data") for e in entries if isinstance(e, dict) and e.get("type") == "dimm"]
    return sum(amount(data.get("size")) or 0 for data in datas if isinstance(data, dict))


async def _virtio_mem(session: Monitor) -> tuple[VirtioMem, ...]:
    """Return every virtio-mem device by its QOM path, with or without an id of its own."""
    found = []
    for parent in _PARENTS:
        children = await session.ask("qom-list", path=parent)
        for child in children[:_DEVICES_LIMIT] if isinstance(children, list) else ():
            if isinstance(child, dict) and str(child.get("type")).startswith(_VIRTIO_MEM_CHILD):
                device = await _virtio_mem_at(session, f"{parent}/{child.get('name')}")
                if device is not None:
                    found.append(device)
    return tuple(found)


async def _virtio_mem_at(session: Monitor, path: str) -> VirtioMem | None:
    async def value(name: str) -> int | None:
        return amount(await session.ask("qom-get", path=path, property=name))

    requested, plugged = await value("requested-size"), await value("size")
    block = await value("block-size")
    if requested is None or plugged is None or not block:
        return None
    return VirtioMem(path, requested, plugged, block)
