"""Which guest runs on which machine: how a command line names it, and what accelerates it."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from giveback.errors import InputError
from giveback_lab.commands import bench
from giveback_lab.images.image import Image
from giveback_lab.packages.architecture import ARM64, X86_64
from giveback_lab.vms import accel, lab
from giveback_lab.vms.emulator import Emulator

HERE = Image(Path("vmlinuz"), "6.12.1", Path("initrd"), Path("root"))


@pytest.fixture(autouse=True)
def x86_64_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "host_architecture", lambda: X86_64)
    monkeypatch.setattr(accel, "host_architecture", lambda: X86_64)


def test_machines_are_named_as_debian_does() -> None:
    assert tuple(lab.MACHINES) == ("amd64", "arm64", "arm64-16k")
    assert lab.guest_kind("small", None) == lab.GuestKind()
    assert lab.guest_kind("small", "arm64-16k") == lab.GuestKind("small", ARM64, 16)
    assert lab.guest_kind("distribution", "amd64") == lab.GuestKind("distribution", X86_64)
    assert not lab.guest_kind("small", "amd64").is_foreign
    with pytest.raises(InputError, match="--arch vax"):
        lab.guest_kind("small", "vax")
    with pytest.raises(InputError, match="--guest distribution --arch arm64"):
        lab.guest_kind("distribution", "arm64")


def test_another_machine_is_emulated() -> None:
    image, emulator = replace(HERE, architecture=ARM64), Emulator(Path("qemu"), "10.0")
    found = asyncio.run(accel.choose_accel("auto", image, emulator))
    assert found.name == "tcg"
    assert "aarch64" in found.reason
    with pytest.raises(InputError, match="aarch64"):
        asyncio.run(accel.choose_accel("kvm", image, emulator))


def options(*words: str) -> bench.Options:
    parser = argparse.ArgumentParser()
    bench.prepare_parser(parser)
    return bench.options_of(parser.parse_args(["--kernels", "6.12", "--mem", "2G", *words]))


def test_works_run_in_the_guest_that_they_need() -> None:
    assert options().wish.kernels == ("6.12",)
    assert "containers" not in options().wish.works
    assert options("--work", "distribution").wish.works[0] == "containers"
    assert {work.guest for work in options("--work", "all").works} == {"small", "distribution"}


def test_another_guest_or_machine_is_in_the_cells_name() -> None:
    chosen = options("--work", "files", "--guest", "distribution")
    assert chosen.wish.kernels == ("6.12-distribution",)
    arm64 = options("--work", "files", "--arch", "arm64-16k")
    assert arm64.wish.kernels == ("6.12-arm64-16k",)
    assert bench._series("6.12-arm64-16k", arm64) == "6.12"


@pytest.mark.parametrize(
    "words",
    [
        ("--work", "containers", "--guest", "small"),
        ("--work", "build", "--guest", "distribution"),
        ("--work", "containers", "--arch", "arm64"),
    ],
)
def test_a_work_that_its_guest_cannot_do_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="--guest"):
        options(*words)
