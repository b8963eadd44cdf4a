"""Any user controls a command line: the cost of parsing is linear in its length, never quadratic."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from fuzzing.harness import instructions
from giveback.host.procs import Process
from giveback.vmm.backends.cloud_hypervisor import CloudHypervisorBackend
from giveback.vmm.backends.firecracker import FirecrackerBackend
from giveback.vmm.backends.programs import vmm_of
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.backends.qemu_args import describe
from giveback.vmm.backends.qemu_options import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback.vmm.base import VmDescription

COUNT = 300
KIB = 1 << 10
RAM = "memory-backend-ram,size=1M,id=m"
PORT = "virtserialport,chardev=c,name=org.giveback.agent.0"


def qemu(words: list[str], config: str | None = None) -> VmDescription:
    arguments = parse(tuple(words), lambda _: config)
    return describe(Process(7, ("qemu-system-x86_64", *words)), str, arguments)


def many(count: int, *words: str) -> list[str]:
    return [word.replace("#", str(number)) for number in range(count) for word in words]


QEMUS: dict[str, Callable[[int], list[str]]] = {
    "-set": lambda n: many(n, "-device", "x,id=a#") + many(n, "-set", "device.a#.b=c"),
    "-set of one id": lambda n: many(n, "-device", "x,id=a") + many(n, "-set", "device.a.b=c"),
    "-global": lambda n: many(n, "-global", "x.p#=1") + many(n, "-device", "x"),
    "memory": lambda n: many(
        n, "-object", f"{RAM}#", "-device", "pc-dimm,memdev=m#", "-numa", "node,memdev=m#"
    ),
    "ports": lambda n: (
        ["-chardev", "socket,id=c,path=/a,server=on", *many(n, "-device", PORT, "-mon", "c")]
    ),
    "monitors": lambda n: many(n, "-qmp", "unix:/q#,server=on"),
    "blockers": lambda n: many(n, "-device", "vfio-pci,host=#"),
    "properties": lambda n: ["-device", ",".join(many(n, "a#=b"))],
    "commas": lambda n: ["-device", "," * n],
}


@pytest.mark.parametrize("kind", QEMUS)
def test_twice_the_words_of_a_qemu_take_twice_the_work(kind: str) -> None:
    lines = [QEMUS[kind](n) for n in (COUNT, 2 * COUNT)]
    once, twice = (instructions(partial(qemu, words)) for words in lines)
    assert twice < 2.5 * once


@pytest.mark.parametrize("backend", [CloudHypervisorBackend(), FirecrackerBackend()])
def test_twice_the_words_of_another_vmm_take_twice_the_work(
    backend: CloudHypervisorBackend | FirecrackerBackend,
) -> None:
    words = "--memory-zone", "id=z#,size=1M", "--vsock", "socket=/s#", "--config-file=/no/#"
    lines = [Process(7, (backend.name, *many(n, *words))) for n in (COUNT, 2 * COUNT)]
    once, twice = (instructions(partial(backend.recognise, process)) for process in lines)
    assert twice < 2.5 * once


@pytest.mark.parametrize(
    "name",
    [
        "qemu-system-" + "_" * 100 * KIB + "!",
        "qemu" + "-system-a" * 10 * KIB + "!",
        "cloud-hypervisor" + "-v1" * 30 * KIB + "!",
        "." * 100 * KIB + "qemu-system-x86_64",
    ],
    ids=["suffix", "parts", "versions", "dots"],
)
def test_no_pattern_is_tried_on_a_name_that_no_file_can_have(name: str) -> None:
    """The first of these took 20 s of a core: two parts of the pattern share the underscore."""
    assert vmm_of(Process(7, (name,))) == ""
    assert vmm_of(Process(7, (name,), exe="/usr/bin/qemu-system-x86_64")) == "qemu"


def test_inherited_properties_are_not_copied_into_every_device() -> None:
    words = many(500, "-global", "x.p#=1") + many(500, "-device", "x")
    options = parse(tuple(words)).options
    assert sum(len(settings) for _, settings in options) < 5 * len(words)


def test_a_long_path_is_not_copied_for_every_port() -> None:
    words = ["-chardev", f"socket,id=c,path=/{'a' * 100 * KIB},server=on"]
    assert qemu(words + many(1000, "-device", PORT)).channels == ()
    fine = ["-chardev", "socket,id=c,path=/a,server=on"]
    assert len(qemu(fine + many(1000, "-device", PORT)).channels) == 1


def test_a_long_name_of_a_json_object_is_not_copied_for_every_name_inside() -> None:
    inside = {"driver": "x", "a" * 50 * KIB: {str(number): 1 for number in range(5000)}}
    ((_, settings),) = parse(("-device", json.dumps(inside))).options
    assert settings == {"driver": "x"}


def test_few_configuration_files_are_read() -> None:
    read: list[str] = []

    def read_config(path: str) -> str:
        read.append(path)
        return '[memory]\nsize = "1M"\n'.replace("\nsize", "\n  size")

    arguments = parse(tuple(many(1000, "-readconfig", "/f#")), read_config)
    assert len(read) == 16
    assert arguments.unread[0] == "-readconfig /f16 cannot be read"
    assert len(arguments.unread) == 16


def test_a_configuration_file_with_too_many_sections_is_refused() -> None:
    assert qemu(["-readconfig", "/f"], "[a]\n" * 100_000).unread == (
        "-readconfig /f cannot be read",
    )


@pytest.mark.parametrize(
    "argv0", ["qemu-system-x86_64", "cloud-hypervisor", "firecracker"], ids=str
)
def test_a_cut_command_line_is_noted(argv0: str) -> None:
    process = Process(7, (argv0, "-m", "1G"), cut=True)
    backends = (QemuBackend(), CloudHypervisorBackend(), FirecrackerBackend())
    (vm,) = (vm for backend in backends if (vm := backend.recognise(process)) is not None)
    assert vm.unread[0] == "its command line is too long: only the first 256 KiB are read"
