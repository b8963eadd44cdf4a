"""Input of the lab from outside: sizes, kernel images, apt's plans, versions, guests' messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback_lab.images.kernels import kernel_release
from giveback_lab.packages.apt import _archive_name
from giveback_lab.vms.agent_port import TEXT_LIMIT, parse_event
from giveback_lab.vms.emulator import unsuitable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def bzimage(version: bytes, offset: int = 0x300, length: int = 0x800) -> bytes:
    image = bytearray(length)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (offset - 0x200).to_bytes(2, "little")
    image[offset : offset + len(version)] = version
    return bytes(image)


def test_kernel_release_is_read_from_the_setup_header() -> None:
    image = bzimage(b"6.12.9-amd64 (builder@host) #1 SMP\0")
    assert kernel_release(image) == "6.12.9-amd64"


@given(st.binary(max_size=1024))
def test_kernel_release_of_any_bytes(data: bytes) -> None:
    kernel_release(data)


@pytest.mark.parametrize("name", [b"../../etc", b"/etc", b"..", b"6.12/..", b"\xff", b" ", b""])
def test_a_release_that_leads_out_of_the_modules_folder_is_none(name: bytes) -> None:
    assert kernel_release(bzimage(name + b" (builder)")) is None


@given(st.binary(max_size=300), st.integers(0, 0xFFFF))
def test_kernel_release_of_any_header(version: bytes, offset: int) -> None:
    image = bytearray(bzimage(b""))
    image[0x20E:0x210] = offset.to_bytes(2, "little")
    image[0x300 : 0x300 + len(version)] = version
    release = kernel_release(bytes(image))
    assert release is None or (release.isprintable() and "/" not in release)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("Inst libc6 (2.36-9 Debian:12.11/stable [amd64])", "libc6_2.36-9_amd64.deb"),
        ("Inst libc6 [2.35] (2.36-9 Debian:12.11/stable [amd64])", "libc6_2.36-9_amd64.deb"),
        (
            "Inst qemu-system-x86 (1:10.0.2+ds-2~bpo12+1 Debian Backports:stable-backports [amd64])",
            "qemu-system-x86_1%3a10.0.2+ds-2~bpo12+1_amd64.deb",
        ),
        (
            "Inst a (1 Debian:12.11/stable, Debian-Security:12/stable-security [all]) []",
            "a_1_all.deb",
        ),
    ],
)
def test_apt_plan_rows(row: str, name: str) -> None:
    assert _archive_name(row) == name


@given(st.text(max_size=80))
def test_an_apt_plan_row_that_is_none(text: str) -> None:
    try:
        assert _archive_name("Inst " + text).endswith(".deb")
    except InputError as error:
        assert "not understood" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("qemu", "kernel", "suits"),
    [
        ("7.2.17", "6.12.9-amd64", False),
        ("7.2", "6.6.1", False),
        ("7.2.17", "6.1.0-37-cloud-amd64", True),
        ("7.2.17", "5.10.0", True),
        ("8.2.2", "6.12.9", True),
        ("10.0.2", "6.12.9", True),
        ("10.0.2", "6.1.0", True),
    ],
)
def test_which_qemu_suits_which_kernel(qemu: str, kernel: str, suits: bool) -> None:
    reason = unsuitable(qemu, kernel)
    assert (reason is None) == suits
    if reason is not None:
        assert qemu in reason
        assert "qemu-system-x86" in reason


def line(**said: object) -> bytes:
    return json.dumps(said).encode()


def test_an_agents_step() -> None:
    event = parse_event(line(event="step", step="compact", text="12 MiB"))
    assert event is not None
    assert (event.step, event.text) == ("compact", "12 MiB")


@pytest.mark.parametrize(
    "said",
    [
        b"", b"{", b"[]", b"1", b"null", b"\xff\xfe", b"[" * 100_000, b'{"event":"step"}',
        line(event="step", step=1, text="x"), line(event="step", step="a", text=None),
        line(event="hello"), line(event=["step"], step="a"),
    ],
)  # fmt: skip
def test_what_is_no_step(said: bytes) -> None:
    assert parse_event(said) is None


@given(st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_line_from_an_agent(said: bytes) -> None:
    parse_event(said)


@given(st.text(), st.text())
def test_an_agents_words_are_bounded_and_printable(step: str, text: str) -> None:
    event = parse_event(line(event="step", step=step, text=text))
    assert event is not None
    assert event.step is not None
    for word in (event.step, event.text):
        assert len(word) <= TEXT_LIMIT
        assert word.isprintable()
