"""One real VM of the lab: QEMU with its RAM in a memfd, whose resident bytes are read exactly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from qemu.qmp import ConnectError, QMPClient, QMPError

from giveback.errors import VmError
from giveback.host.smaps import resident_of_mapping
from giveback_kernel.units import MIB
from giveback_lab.images.ext4 import make_ext4
from giveback_lab.vms.folders import VmFolder
from giveback_lab.vms.guest_link import GuestLink

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from giveback_lab.images.image import Image
    from giveback_lab.vms.emulator import Emulator

END_GRACE_S = 2.0
# Under TCG the translation buffer is QEMU's own memory. This bound lets two VMs fit a small host.
TB_SIZE_MIB = 128
LAB_PORT = "org.giveback.lab.0"
AGENT_PORT = "org.giveback.agent.0"
RAM_MAPPING = "/memfd:memory-backend-memfd"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VmSpec:
    """The configuration of a VM. `reporting` is free page reporting, a feature of the balloon device."""

    name: str
    ram_bytes: int
    cpus: int
    accel: str
    reporting: bool = True
    agent_port: bool = True
    work_disk_bytes: int = 4 << 30
    kernel_arguments: str = ""


def command_line(spec: VmSpec, image: Image, emulator: Emulator, folder: Path) -> list[str]:
    """Return QEMU's arguments for this VM; its sockets and logs are in `folder`."""
    accel = f"tcg,thread=multi,tb-size={TB_SIZE_MIB}" if spec.accel == "tcg" else spec.accel
    machine = image.architecture
    cpu = machine.emulated_cpu if spec.accel == "tcg" else "host"
    kernel_line = (
        f"console={machine.console} panic=-1 oops=panic loglevel=6 mitigations=off random.trust_cpu=on "
        f"printk.devkmsg=on {spec.kernel_arguments}"
    ).strip()
    ram_mib = spec.ram_bytes // MIB
    reporting = "on" if spec.reporting else "off"
    # The guest's writes to its root disk go to a file that QEMU has already unlinked.
    root_mode = "snapshot=on,cache=unsafe" if image.writable else "readonly=on"
    return [
        str(emulator.program), *emulator.arguments,
        "-name", f"giveback-{spec.name}", "-nodefaults", "-no-user-config", "-no-reboot",
        "-display", "none", "-machine", f"{machine.qemu_machine},memory-backend=ram",
        "-accel", accel, "-cpu", cpu,
        "-smp", str(spec.cpus), "-m", f"{ram_mib}M",
        "-object", f"memory-backend-memfd,id=ram,size={ram_mib}M,share=on",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", kernel_line,
        "-drive", f"if=none,id=root,file={image.root_disk},format=raw,{root_mode}",
        "-device", "virtio-blk-pci,drive=root",
        "-drive", f"if=none,id=work,file={folder}/work.ext4,format=raw,cache=unsafe,discard=unmap",
        "-device", "virtio-blk-pci,drive=work",
        *(word for disk in enumerate(image.more_disks) for word in _read_only_disk(*disk)),
        "-device", f"virtio-balloon-pci,id=balloon,free-page-reporting={reporting}",
        "-device", "virtio-serial-pci",
        *_port("lab", LAB_PORT, folder),
        *(_port("agent", AGENT_PORT, folder) if spec.agent_port else ()),
        "-serial", f"file:{folder}/serial.log",
        "-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off",
    ]  # fmt: skip


def _read_only_disk(number: int, path: Path) -> list[str]:
    drive = f"if=none,id=more{number},file={path},format=raw,readonly=on"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive=more{number}"]


def _port(name: str, port_name: str, folder: Path) -> list[str]:
    chardev = f"socket,id={name},path={folder}/{name}.sock,server=on,wait=off"
    return ["-chardev", chardev, "-device", f"virtserialport,chardev={name},name={port_name}"]


class LabVm:
    """A running VM. `async with LabVm(...) as vm` boots it and cleans up at the end of the block."""

    def __init__(
        self,
        spec: VmSpec,
        image: Image,
        emulator: Emulator,
        boot_deadline_s: float | None = None,
    ) -> None:
        self.spec = spec
        self._boot_deadline_s = boot_deadline_s or image.boot_deadline_s
        self._image = image
        self._emulator = emulator
        self._folder = VmFolder()
        self.folder = self._folder.path
        self.guest = GuestLink(spec.name)
        self.qmp = QMPClient(spec.name)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.boot()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        if self._process is None:
            raise VmError(f"{self.spec.name}: not started")
        return self._process.pid

    @property
    def has_systemd(self) -> bool:
        """Whether the guest is a distribution guest, with systemd."""
        return self._image.has_systemd

    @property
    def agent_socket(self) -> Path:
        """The host's end of the agent's virtio-serial port."""
        return self.folder / "agent.sock"

    @property
    def serial_log(self) -> Path:
        """The file with the guest kernel's console output."""
        return self.folder / "serial.log"

    async def boot(self) -> None:
        """Start QEMU and wait until the guest answers. Raises VmError."""
        make_ext4(self.folder / "work.ext4", self.spec.work_disk_bytes)
        command = command_line(self.spec, self._image, self._emulator, self.folder)
        # setpriv ends QEMU if its parent is SIGKILLed.
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with (self.folder / "qemu.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *guard, *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=self._environment(),
            )  # fmt: skip
        await self.watch(self._connect(), self._boot_deadline_s, "boot")

    def _environment(self) -> dict[str, str]:
        # QEMU's own scratch files go to the VM's folder, which is on a disk.
        mine = {"TMPDIR": str(self.folder)}
        return {**os.environ, **self._emulator.environment, **mine}

    async def _connect(self) -> None:
        lab_socket = self.folder / "lab.sock"
        # QEMU creates the sockets itself and does not announce them.
        while not (lab_socket.exists() and (self.folder / "qmp.sock").exists()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        while True:
            with contextlib.suppress(ConnectError):
                await self.qmp.connect(str(self.folder / "qmp.sock"))
                break
            await asyncio.sleep(0.05)
        await self.guest.connect(str(lab_socket))
        await self.guest.wait_hello()

    async def watch(self, work: Awaitable[T], deadline_s: float, what: str) -> T:
        """Wait for `work` and return its result.

        Raises VmError if QEMU ends or the deadline passes first.
        """
        if self._process is None:
            raise VmError(f"{self.spec.name}: not started")
        task = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(self._process.wait())
        try:
            done, _ = await asyncio.wait(
                {task, ended}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise VmError(
                    f"{self.spec.name}: {what}: the guest did not answer within {deadline_s:.0f} s"
                )
            if task in done and task.exception() is None:
                return task.result()
            if ended not in done:
                # A broken socket is often the first sign that QEMU has ended; QEMU's exit is then
                # the reason to report.
                await asyncio.wait({ended}, timeout=END_GRACE_S)
            if ended.done():
                raise VmError(f"{self.spec.name}: {self._why_ended(ended.result())} during {what}")
            return task.result()
        finally:
            for pending in (task, ended):
                pending.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)

    def _why_ended(self, code: int) -> str:
        with contextlib.suppress(OSError):
            serial = self.serial_log.read_bytes()[-65536:].decode("utf-8", "replace")
            for line in serial.splitlines():
                if "Kernel panic" in line:
                    return f"the guest panicked ({line.strip()[-120:]})"
        with contextlib.suppress(OSError):
            said = (self.folder / "qemu.log").read_text(errors="replace").strip()
            if said:
                return f"QEMU ended with code {code} ({said.splitlines()[-1][-200:]})"
        return (
            f"QEMU was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"QEMU ended with code {code}"
        )

    def resident_bytes(self) -> int:
        """Return the bytes of guest RAM that occupy host memory: Rss of its mapping. Raises VmError."""
        return resident_of_mapping(self.pid, RAM_MAPPING).rss_bytes

    def keep_logs(self, into: Path) -> Path | None:
        """Copy the guest's serial log and QEMU's own log out of the VM's folder.

        Return the path of the serial log, or None if the guest was not started.
        """
        if not self.serial_log.exists():
            return None
        kept = into / f"{self.spec.name}-serial.log"
        with contextlib.suppress(OSError):
            into.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.serial_log, kept)
            shutil.copyfile(self.folder / "qemu.log", into / f"{self.spec.name}-qemu.log")
        return kept

    async def stop(self) -> None:
        """End QEMU and remove the VM's folder. Safe to call at any moment, and twice."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await asyncio.shield(self._process.wait())
        await self.guest.close()
        with contextlib.suppress(QMPError, ConnectionError, EOFError):
            await self.qmp.disconnect()
        self._folder.remove()
