"""KVM or TCG: decided by a guest that answers, not by a device that opens."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from giveback.errors import InputError, VmError
from giveback.lab.cache import cache_root, content_key
from giveback.lab.emulator import Emulator
from giveback.lab.image import Image
from giveback.lab.vm import MIB, LabVm, VmSpec

CHOICES = ("auto", "kvm", "tcg")
KVM_DEVICE = Path("/dev/kvm")
# A guest under KVM is up in a second or two, and in ten on a busy host.
KVM_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Accel:
    """`name` for QEMU, and `reason` in words for the user."""

    name: str
    reason: str


async def choose_accel(wanted: str, image: Image, emulator: Emulator) -> Accel:
    """Return the accelerator to use; a probe's answer is remembered for this host.

    Raises InputError where KVM was demanded and no guest answers under it.
    """
    if wanted == "tcg":
        return Accel("tcg", "TCG, as asked")
    memory = cache_root() / f"accel-{_host_key(emulator)}.json"
    remembered = _recall(memory) if wanted == "auto" else None
    if remembered is not None:
        return Accel(remembered.name, f"{remembered.reason} (remembered; forget: rm {memory})")
    failure = await _kvm_failure(image, emulator)
    if failure is None:
        found = Accel("kvm", "KVM: a guest answered under it")
    elif wanted == "kvm":
        raise InputError(f"KVM does not work here: {failure}; use --accel tcg")
    else:
        found = Accel("tcg", f"TCG (emulation, slow): {failure}")
    memory.write_text(json.dumps({"name": found.name, "reason": found.reason}))
    return found


async def _kvm_failure(image: Image, emulator: Emulator) -> str | None:
    if not KVM_DEVICE.exists():
        return f"{KVM_DEVICE} is missing"
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return f"{KVM_DEVICE} may not be opened by this user (add it to the group kvm)"
    spec = VmSpec("kvm-probe", 512 * MIB, 1, "kvm")
    vm = LabVm(spec, image, emulator, boot_deadline_s=KVM_DEADLINE_S)
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
        said = json.loads(memory.read_text())
        name, reason = said["name"], said["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Accel(name, str(reason)) if name in CHOICES[1:] else None
