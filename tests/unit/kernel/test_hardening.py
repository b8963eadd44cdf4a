"""What the kernel was told that gets in the way of returning memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import hardening
from giveback_kernel.hardening import Hardening

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        (b"", Hardening()),
        (b"console=ttyS0 quiet\n", Hardening()),
        (b"init_on_free=1", Hardening(init_on_free=True)),
        (b"init_on_free=off", Hardening(init_on_free=False)),
        (b"init-on-free=y init_on_alloc=0", Hardening(init_on_free=True, init_on_alloc=False)),
        (b"init_on_free=1 init_on_free=0", Hardening(init_on_free=False)),
        (b"init_on_free", Hardening()),
        (b"init_on_free=maybe", Hardening()),
        (b"page_poison=on debug_pagealloc=on", Hardening(page_poison=True, debug_pagealloc=True)),
        (b"quiet -- page_poison=1", Hardening()),
        (b'dyndbg="file a +p; page_poison=1" init_on_free=1', Hardening(init_on_free=True)),
        (b"mem=2G", Hardening(mem_limit_bytes=2 << 30)),
        (b"mem=512m mem=1G", Hardening(mem_limit_bytes=512 << 20)),
        (b"mem=0x10000000", Hardening(mem_limit_bytes=1 << 28)),
        (b"mem=1024", Hardening(mem_limit_bytes=1024)),
        (b"mem=nopentium", Hardening()),
        (b"mem=lots mem=-1G mem=", Hardening()),
    ],
)
def test_the_command_line(cmdline: bytes, expected: Hardening) -> None:
    assert hardening.parse(cmdline) == expected


@settings(deadline=None)
@given(st.binary(max_size=4096))
def test_any_command_line_is_understood(cmdline: bytes) -> None:
    assert isinstance(hardening.parse(cmdline), Hardening)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Hardening(), False),
        (Hardening(init_on_free=True), True),
        (Hardening(page_poison=True), True),
        (Hardening(init_on_alloc=True, debug_pagealloc=True, init_on_free=False), False),
    ],
)
def test_what_withdraws_reporting(found: Hardening, expected: bool) -> None:
    assert found.withdraws_reporting is expected


def test_the_kernels_own_account_wins(tmp_path: Path) -> None:
    files = {
        "/proc/cmdline": b"init_on_free=0 mem=2G\n",
        "/dev/kmsg": sample("kmsg_virtio"),
        "/proc/meminfo": sample("meminfo"),
    }
    found = hardening.read_hardening(plant(tmp_path, files))
    assert found == Hardening(
        init_on_free=True, init_on_alloc=False, mem_limit_bytes=2 << 30, hugetlb_bytes=0
    )


def test_nothing_to_read(tmp_path: Path) -> None:
    assert hardening.read_hardening(str(tmp_path)) == Hardening()


def test_this_machine() -> None:
    assert isinstance(hardening.read_hardening(), Hardening)
