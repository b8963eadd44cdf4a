"""What VM tests share: the lab, made once, and the accelerator that works here."""

from __future__ import annotations

import asyncio
import os

import pytest

from giveback.errors import InputError
from giveback_lab.vms.accel import Accel, choose_accel
from giveback_lab.vms.lab import Lab, prepare_lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The default kernel's guest image and QEMU, fetched and built where they are not cached."""
    return _prepared(None)


@pytest.fixture(scope="session")
def lab_6_1() -> Lab:
    """The same with Linux 6.1, whose page reporting order behaves differently."""
    return _prepared("6.1")


@pytest.fixture(scope="session")
def accel(lab: Lab) -> Accel:
    """KVM where a guest answers under it, else TCG."""
    return asyncio.run(choose_accel("auto", lab.image, lab.emulator))


def _prepared(kernel: str | None) -> Lab:
    try:
        return prepare_lab(kernel, None, lambda _: None)
    except InputError as error:
        if os.environ.get("CI"):
            # A green CI that booted no guest would say nothing.
            raise
        pytest.skip(f"no lab on this machine: {error}")
