"""QEMU's command line and answers, and the binding of blocks to mappings: pure, any input."""

from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from giveback.host.procs import Process
from giveback.host.smaps import Mapping
from giveback.vmm.backends import qemu, qemu_shape
from giveback.vmm.backends.cloud_hypervisor import CloudHypervisorBackend
from giveback.vmm.backends.firecracker import FirecrackerBackend
from giveback.vmm.backends.qemu_args import describe
from giveback.vmm.backends.qemu_options import properties
from giveback.vmm.base import Answer, Backing, RamBlock
from giveback.vmm.mapping import bind

MIB, GIB = 1 << 20, 1 << 30
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
WORDS = st.lists(
    st.sampled_from(
        [
            "-m",
            "-object",
            "-device",
            "-qmp",
            "-name",
            "-numa",
            "-machine",
            "-chardev",
            "-mon",
            "--memory",
            "--balloon",
            "--api-socket",
            "--id",
            "2G",
            "size=1G,slots=2",
            "memory-backend-memfd,id=a,size=1G",
            "virtio-balloon-pci",
            "unix:/x,server",
            "memory-backend=a",
            "{}",
            '{"qom-type":5}',
            ",",
            ",,",
            "=",
            "a=",
        ]
    )
    | st.text(string.printable, max_size=12),
    max_size=14,
)


@given(WORDS)
def test_any_command_line_is_described(words: list[str]) -> None:
    vm = describe(Process(7, ("qemu-system-x86_64", *words)), str)
    assert vm.ram_bytes >= 0
    assert vm.name
    for backend, program in (
        (CloudHypervisorBackend(), "cloud-hypervisor"),
        (FirecrackerBackend(), "firecracker"),
    ):
        assert backend.recognise(Process(7, (program, *words))) is not None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("q35,accel=tcg", {"type": "q35", "accel": "tcg"}),
        ("unix:/a,,b,server,nowait", {"type": "unix:/a,b", "server": "on", "wait": "off"}),
        ('{"type": "a", "on": true, "n": 5}', {"type": "a", "on": "on", "n": "5"}),
        ("{broken", {}),
        ("", {"type": ""}),
    ],
)
def test_properties(text: str, found: dict[str, str]) -> None:
    assert properties(text, "type") == found


@pytest.mark.parametrize(
    ("words", "blocker"),
    [
        (["-device", "vfio-pci,host=01:00.0"], "vfio-pci"),
        (["-netdev", "vhost-vdpa,id=n"], "vhost-vdpa"),
        (["-object", "sev-guest,id=s"], "encrypted"),
        (["-object", '{"qom-type":"tdx-guest","id":"t"}'], "encrypted"),
        (["-overcommit", "mem-lock=on"], "locked"),
    ],
)
def test_options_that_prevent_the_discard_of_reported_pages(words: list[str], blocker: str) -> None:
    (found,) = describe(Process(7, ("qemu-kvm", *words)), str).blockers
    assert blocker in found


def test_memory_that_is_not_ram_is_left_out() -> None:
    words = [
        "-m",
        "1G,slots=4,maxmem=8G",
        "-object",
        "memory-backend-ram,id=m,size=4G",
        "-device",
        "virtio-mem-pci,memdev=m,requested-size=2G",
        "-object",
        "memory-backend-file,id=nv,size=8G,mem-path=/nv",
        "-device",
        "nvdimm,memdev=nv",
    ]
    vm = describe(Process(7, ("qemu-system-x86_64", *words)), str)
    assert vm.ram_bytes == 3 * GIB
    assert [(b.name, b.size_bytes, b.hotplug) for b in vm.ram_blocks] == [
        ("ram", GIB, False),
        ("m", 4 * GIB, True),
    ]
    assert vm.capabilities.virtio_mem is Answer.YES


NAMES = [
    "capability",
    "state",
    "id",
    "share",
    "type",
    "data",
    "memdev",
    "size",
    "label",
    "filename",
]
ENTRIES = st.lists(st.dictionaries(st.sampled_from(NAMES), JSON | st.just("dimm")), max_size=3)


def test_memory_that_virtio_mem_has_plugged_at_the_start_is_ram() -> None:
    memory = "size=1G,hotplug_method=virtio-mem,hotplug_size=4G,hotplugged_size=1G"
    words = ("cloud-hypervisor", "--kernel", "k", "--memory", memory)
    vm = CloudHypervisorBackend().recognise(Process(7, words))
    assert vm is not None
    assert vm.ram_bytes == 2 << 30


@given(JSON | ENTRIES)
@example([{"capability": [], "state": True}])
@example([{"id": {}}])
def test_any_answer_is_parsed(answer: object) -> None:
    qemu_shape.plugged_blocks(answer, answer, ())
    qemu_shape.plugged_socket(answer)
    qemu_shape.closed_sockets(answer)
    (*_, last) = qemu_shape.base_blocks(answer, answer, 1 << 30)
    assert last.size_bytes <= 1 << 30
    qemu.ram_bytes(answer)
    qemu.balloon_bytes(answer, 1 << 30)
    qemu.parse_statistics(answer)
    qemu.capability_blockers(answer)
    assert qemu.reporting(qemu.guest_features(answer)) in Answer


def test_base_memory_by_the_monitor() -> None:
    backends = [
        {"id": "a", "size": GIB, "share": True, "prealloc": False},
        {"id": "b", "size": 2 * GIB, "share": False, "prealloc": True},
        {"id": "dimm", "size": GIB},
    ]
    plugged = [{"type": "dimm", "data": {"memdev": "/objects/dimm", "size": GIB}}]
    assert qemu_shape.base_blocks(backends, plugged, 3 * GIB) == (
        RamBlock("a", GIB, Backing.UNKNOWN, shared=True),
        RamBlock("b", 2 * GIB, Backing.UNKNOWN, prealloc=True),
    )
    # Blocks of an NVDIMM or a shared-memory device are listed, too: then it is unknown which are RAM.
    assert qemu_shape.base_blocks(backends, plugged, GIB) == (
        RamBlock("ram", GIB, Backing.UNKNOWN),
    )


def test_sockets_that_the_guest_has_not_opened() -> None:
    chardevs = [
        {"label": "a", "frontend-open": False, "filename": "disconnected:unix:/a,server=on"},
        {"label": "b", "frontend-open": True, "filename": "unix:/b,server=on"},
        {"label": "c", "frontend-open": False, "filename": "unix:/c,server=on <-> "},
        {"label": "d", "frontend-open": False, "filename": "disconnected:tcp:::1,server=on"},
        {"label": "e", "filename": "unix:/e,server=on"},
    ]
    assert qemu_shape.closed_sockets(chardevs) == ("/a", "/c")


def test_blocks_that_were_plugged_in() -> None:
    devices = [
        {"type": "dimm", "data": {"memdev": "/objects/m1", "size": GIB}},
        {"type": "dimm", "data": {"memdev": "/objects/m0", "size": GIB}},
        {"type": "nvdimm", "data": {"memdev": "/objects/nv", "size": GIB}},
        {"type": "virtio-mem", "data": {"memdev": "/objects/v", "size": MIB, "max-size": 2 * GIB}},
    ]
    backends = [{"id": "m1", "share": True}]
    assert qemu_shape.plugged_blocks(devices, backends, (RamBlock("m0", GIB),)) == (
        RamBlock("m1", GIB, Backing.UNKNOWN, shared=True),
        RamBlock("v", 2 * GIB, Backing.UNKNOWN, hotplug=True),
    )


@given(st.text(string.printable, max_size=300))
def test_any_monitor_text_is_parsed(text: str) -> None:
    qemu.parse_layout(text)
    qemu.parse_layout('FlatView #0\n AS "memory"\n' + text)
    qemu.parse_host_address(text)


MAPPINGS = st.lists(
    st.builds(
        lambda at, pages, perms, inode, name: Mapping(
            at << 20, (at << 20) + (pages << 12), perms, 0, "00:01", inode, name
        ),
        st.integers(0, 200),
        st.integers(1, 600),
        st.sampled_from(["rw-p", "rw-s", "r--p", "rwxp", "---p"]),
        st.integers(0, 3),
        st.sampled_from(["", "/memfd:x (deleted)", "/a", "[heap]"]),
    ),
    max_size=12,
)
BLOCKS = st.lists(
    st.builds(
        lambda name, pages, backing, hotplug: RamBlock(name, pages << 12, backing, hotplug=hotplug),
        st.sampled_from("abc"),
        st.integers(1, 600),
        st.sampled_from(Backing),
        st.booleans(),
    ),
    max_size=3,
)


@given(BLOCKS, MAPPINGS)
def test_no_range_is_assigned_twice(blocks: list[RamBlock], mappings: list[Mapping]) -> None:
    bound = bind(blocks, mappings)
    assert [b.block for b in bound] == blocks
    for found in bound:
        length = sum(end - start for start, end in found.ranges)
        assert length in (0, found.block.size_bytes)
    places = sorted(place for found in bound for place in found.ranges)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(places))


def test_a_block_in_two_pieces() -> None:
    pieces = [
        Mapping(GIB, 4 * GIB, "rw-p", 0, "00:00", 0, ""),
        Mapping(8 * GIB, 9 * GIB, "rw-p", 0, "00:00", 0, ""),
    ]
    (bound,) = bind([RamBlock("ram", 4 * GIB)], pieces)
    assert bound.ranges == ((GIB, 4 * GIB), (8 * GIB, 9 * GIB))


def test_a_partly_plugged_region() -> None:
    """Firecracker removes all permissions from the unplugged part of its region."""
    region = [
        Mapping(GIB, GIB + GIB // 4, "rw-p", 0, "00:00", 0, ""),
        Mapping(GIB + GIB // 4, 2 * GIB, "---p", 0, "00:00", 0, ""),
    ]
    base = Mapping(4 * GIB, 5 * GIB, "rw-p", 0, "00:00", 0, "")
    blocks = [RamBlock("ram", GIB), RamBlock("hotplug", GIB, hotplug=True)]
    bound = bind(blocks, [*region, base])
    assert [block.ranges for block in bound] == [((4 * GIB, 5 * GIB),), ((GIB, 2 * GIB),)]
    assert all(block.sure for block in bound)
    assert bind([RamBlock("ram", GIB)], region)[0].ranges == ()


def test_a_block_that_the_kernel_merged_with_other_memory_is_found() -> None:
    merged = Mapping(GIB - 2 * MIB, 2 * GIB, "rw-p", 0, "00:00", 0, "")
    (bound,) = bind([RamBlock("ram", GIB)], [merged])
    assert bound.ranges == ((GIB, 2 * GIB),)
    assert not bound.sure
