"""QEMU's command line for each image and machine, and which QEMU is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from giveback.errors import InputError
from giveback_kernel.units import MIB
from giveback_lab.images.image import Image
from giveback_lab.packages.architecture import ARM64
from giveback_lab.vms import emulator
from giveback_lab.vms.emulator import Emulator, find_emulator
from giveback_lab.vms.vm import VmSpec, command_line

IMAGE = Image(Path("/k/vmlinuz"), "6.12.1", Path("/i/initrd"), Path("/r/root.ext4"))
QEMU = Emulator(Path("/q/qemu"), "10.0.2")
SPEC = VmSpec("one", 512 * MIB, 2, "tcg")


def options(image: Image, name: str) -> list[str]:
    words = command_line(SPEC, image, QEMU, Path("/f"))
    return [words[at + 1] for at, word in enumerate(words) if word == name]


def test_a_root_disk_is_read_only_unless_the_guest_writes_to_it() -> None:
    root, _ = options(IMAGE, "-drive")
    assert root == "if=none,id=root,file=/r/root.ext4,format=raw,readonly=on"
    written, _ = options(replace(IMAGE, writable=True), "-drive")
    assert "snapshot=on" in written
    assert "readonly" not in written


def test_more_disks_come_after_the_work_disk_and_are_read_only() -> None:
    disks = options(replace(IMAGE, more_disks=(Path("/m/one"), Path("/m/two"))), "-drive")
    assert [disk.split("file=")[1].split(",")[0] for disk in disks] == [
        "/r/root.ext4", "/f/work.ext4", "/m/one", "/m/two",
    ]  # fmt: skip
    assert all(disk.endswith("readonly=on") for disk in disks[2:])


def test_each_machine_has_its_board_and_console() -> None:
    assert options(IMAGE, "-machine") == ["pc,memory-backend=ram"]
    assert options(IMAGE, "-append")[0].startswith("console=ttyS0 ")
    arm = replace(IMAGE, architecture=ARM64)
    assert options(arm, "-machine") == ["virt,memory-backend=ram"]
    assert options(arm, "-cpu") == ["neoverse-n1"]
    assert options(IMAGE, "-cpu") == ["max"]
    assert options(arm, "-append")[0].startswith("console=ttyAMA0 ")


def test_the_machines_own_qemu_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu-system-aarch64"
    program.write_text("#!/bin/sh\necho 'QEMU emulator version 10.0.2'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_emulator("6.12.1", None, ARM64).program == program


def test_a_qemu_that_cannot_be_had_is_named_by_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> Path:
        raise InputError("no network")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(emulator, "qemu_tree", fail)
    with pytest.raises(InputError, match=r"package qemu-system-arm \(fetching.*no network"):
        find_emulator("6.12.1", None, ARM64)
