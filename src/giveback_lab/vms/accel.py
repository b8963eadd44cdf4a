"""Choose KVM or TCG. KVM counts as working once a guest has answered under it, not once its device opens."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from giveback.errors import InputError, VmError
from giveback_kernel.units import MIB
from giveback_lab.packages.architecture import host_architecture
from giveback_lab.packages.cache import cache_root, content_key
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from giveback_lab.images.image import Image
    from giveback_lab.vms.emulator import Emulator

CHOICES = ("auto", "kvm", "tcg")
KVM_DEVICE = Path("/dev/kvm")
# A guest under KVM boots in 1 to 2 s, and in 10 s on a busy host.
KVM_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Accel:
    """An accelerator: its `name` for QEMU, and the `reason` for it as text for the user."""

    name: str
    reason: str


async def choose_accel(
    wanted: str, image: Image, emulator: Emulator, deadline_s: float = KVM_DEADLINE_S
) -> Accel:
    """Return the accelerator to use. The result of a booted guest is remembered for this host.

    Raises InputError if KVM was demanded and no guest answers under it.
    """
    if wanted == "tcg":
        return Accel("tcg", "TCG, as asked")
    machine = image.architecture.machine
    if image.architecture != host_architecture():
        if wanted == "kvm":
            raise InputError(f"KVM does not run {machine} guests on this host; use --accel tcg")
        return Accel("tcg", f"TCG (emulation, slow): the guest is {machine}, this host is not")
    memory = cache_root() / f"accel-{_host_key(emulator)}.json"
    remembered = _recall(memory) if wanted == "auto" else None
    if remembered is not None:
        return Accel(
            remembered.name, f"{remembered.reason} (remembered: delete {memory} to ask again)"
        )
    unusable = _device_failure()
    failure = unusable or await _boot_failure(image, emulator, deadline_s)
    if failure is None:
        found = Accel("kvm", "KVM: a guest answered under it")
    elif wanted == "kvm":
        raise InputError(f"KVM does not work here: {failure}; use --accel tcg")
    else:
        found = Accel("tcg", f"TCG (emulation, slow): {failure}")
    # A KVM device that is missing, or that this user may not open, costs nothing to check again.
    if unusable is None:
        with suppress(OSError):
            memory.write_text(json.dumps(asdict(found)))
    return found


def _device_failure() -> str | None:
    if not KVM_DEVICE.exists():
        return f"{KVM_DEVICE} is missing"
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return f"{KVM_DEVICE} may not be opened by this user (add it to the group kvm)"
    return None


async def _boot_failure(image: Image, emulator: Emulator, deadline_s: float) -> str | None:
    spec = VmSpec("kvm-probe", 512 * MIB, 1, "kvm")
    vm = LabVm(spec, image, emulator, boot_deadline_s=deadline_s)
    try:
        async with vm:
            return None
    except VmError as error:
        return f"under KVM {error}"


def _host_key(emulator: Emulator) -> str:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        cpuinfo = ""
    model = [row for row in cpuinfo.splitlines() if row.startswith("model name")]
    return content_key(platform.release(), emulator.version, *model)


def _recall(memory: Path) -> Accel | None:
    try:
        found = TypeAdapter(Accel).validate_json(memory.read_text())
    except (OSError, ValueError):
        return None
    return found if found.name in CHOICES[1:] else None
