"""QEMU's grammar: options written from a model parse back to it; so do known cases from the field."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.host.procs import Process
from giveback.vmm.backends.qemu_args import describe, is_xen
from giveback.vmm.backends.qemu_options import (
    compat_chardev,
    config_sections,
    global_of,
    listening_address,
    parse,
    properties,
)
from giveback.vmm.base import Answer, Backing, VmDescription

MIB, GIB = 1 << 20, 1 << 30
ADDRESS = {"type": "unix", "data": {"path": "/q"}}
NESTED = json.dumps(
    {"id": "c", "backend": {"type": "socket", "data": {"server": True, "addr": ADDRESS}}}
)
KEYS = st.from_regex(r"[a-m][a-z0-9_.-]{0,8}", fullmatch=True)
VALUES = st.text(string.printable.replace("\n", "").replace("\r", ""), max_size=12)
MODELS = st.dictionaries(KEYS, VALUES, max_size=6)


def vm_of(words: list[str], config: str | None = None, **files: str) -> VmDescription:
    arguments = parse(tuple(words), lambda path: files.get(path, config))
    return describe(Process(7, ("qemu-system-x86_64", *words)), str, arguments)


def written(model: dict[str, str]) -> str:
    return ",".join(f"{key}={value.replace(',', ',,')}" for key, value in model.items())


@given(MODELS)
def test_options_parse_to_the_model_they_were_written_from(model: dict[str, str]) -> None:
    assert properties(written(model), "type") == (model or {"type": ""})


@given(MODELS, VALUES)
def test_the_first_value_needs_no_name(model: dict[str, str], first: str) -> None:
    model.pop("driver", None)
    if "=" in first or first.startswith("{"):
        return
    text = ",".join(filter(None, (first.replace(",", ",,"), written(model))))
    if not first:
        text = f",{written(model)}"
    assert properties(text, "driver") == {"driver": first, **model}


@given(st.dictionaries(KEYS, st.booleans() | st.integers() | VALUES, max_size=5))
def test_json_parses_to_the_model_it_was_written_from(model: dict[str, object]) -> None:
    words = {True: "on", False: "off"}
    found = properties(json.dumps(model), "driver")
    assert found == {
        key: words[value] if isinstance(value, bool) else str(value) for key, value in model.items()
    }


@given(
    st.lists(
        st.tuples(
            KEYS,
            st.none() | st.from_regex(r'[^"\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]{1,9}', fullmatch=True),
            st.dictionaries(
                KEYS.filter(lambda key: key != "id"),
                st.text(string.printable, max_size=9).map(
                    lambda text: "".join(c for c in text if c not in '"\n\r\x0b\x0c')
                ),
                max_size=4,
            ),
        ),
        max_size=5,
    )
)  # fmt: skip
def test_a_config_file_parses_to_the_model_it_was_written_from(
    model: list[tuple[str, str | None, dict[str, str]]],
) -> None:
    text = "# QEMU configuration\n\n"
    for group, name, settings in model:
        text += f"[{group}]\n" if name is None else f'[{group} "{name}"]\n'
        text += "".join(f'  {key} = "{value}"\n' for key, value in settings.items()) + "\n"
    assert config_sections(text) == [
        (group, settings if name is None else {"id": name, **settings})
        for group, name, settings in model
    ]


@given(st.text(string.printable, max_size=80))
def test_any_text_is_parsed(text: str) -> None:
    config_sections(text)
    global_of(text)
    listening_address(compat_chardev(text))
    properties(text, "a")
    vm = vm_of(["-readconfig", "x", "-set", text, "-global", text, "-qmp", text], text)
    assert vm.ram_bytes >= 0


@pytest.mark.parametrize(
    "text", ["no section", "memory]", "[memory]\nsize = 2048M", "  [x", 'a = "b"', "[memory]\n!"]
)
def test_text_that_is_not_a_config_file_is_refused(text: str) -> None:
    assert config_sections(text) is None
    assert vm_of(["-readconfig", "x"], text).ram_bytes == 0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/a,server=on", "/a"),
        ("unix:path=/a,server=on,wait=off", "/a"),
        ("unix:/a,,b,server,nowait", "/a,b"),
        ("unix:server=y,path=/a", "/a"),
        ("unix:a,server", "a"),
        ("unix:a:1,server", "./a:1"),
        ("unix:@a,server", "./@a"),
        ("unix:a,server,abstract=on", "@a"),
        ("mon:unix:/a,server", "/a"),
        ("unix:/a", ""),
        ("unix:/a,noserver", ""),
        ("unix:/a,server=off", ""),
        ("unix:/a,server,server=off", ""),
        ("unix:/a,server=on,tls-creds=t", ""),
        ("unix:fd=3,server=on,wait=off", ""),
        ("tcp:localhost:4444,server,nowait", "localhost:4444"),
        ("tcp::4444,server=on", ":4444"),
        ("tcp:0.0.0.0:4444,server=on", "0.0.0.0:4444"),
        ("tcp:[::1]:4444,server=on", "::1:4444"),
        ("tcp:localhost:4444", ""),
        ("telnet:localhost:4444,server", ""),
        ("stdio", ""),
        ("pty", ""),
        ("none", ""),
        ("", ""),
    ],
)
def test_monitors(text: str, address: str) -> None:
    assert listening_address(compat_chardev(text)) == address
    assert vm_of(["-qmp", text]).control == address
    assert vm_of(["--qmp-pretty", text]).control == address
    assert vm_of(["-monitor", text]).control == ""


@pytest.mark.parametrize(
    "words",
    [
        ["-chardev", "socket,id=c,path=/q,server=on", "-mon", "c,mode=control"],
        ["-mon", "mode=control,chardev=c", "-chardev", "id=c,server=on,backend=socket,path=/q"],
        ["-chardev", '{"backend":"socket","id":"c","path":"/q","server":true}', "-qmp", "chardev:c"],
        ["-chardev", NESTED, "-mon", '{"chardev":"c","mode":"control"}'],
        ["-qmp", "unix:fd=3,server=on,wait=off", "-qmp", "unix:path=/q,server=on,wait=off"],
        ["-append", "-m 1G -qmp", "-initrd", "-qmp", "-qmp", "unix:/q,server"],
        ["-readconfig", "f"],
        ["-chardev", "socket,id=c,path=/x,server=off", "-set", "chardev.c.path=/q",
         "-set", "chardev.c.server=on", "-mon", "c,mode=control"],
    ],
)  # fmt: skip
def test_monitors_of_several_options(words: list[str]) -> None:
    config = '[chardev "c"]\nbackend = "socket"\npath = "/q"\nserver = "on"\n'
    config += '[mon "m"]\nchardev = "c"\nmode = "control"\n'
    assert vm_of(words, f=config).control == "/q"


@pytest.mark.parametrize(
    "words", [["-chardev", "socket,id=c,path=/q,server=on", "-mon", "c"],
              ["-chardev", "socket,id=c,path=/q,server=on", "-mon", "c,mode=readline"],
              ["-qmp", "chardev:none"], ["-mon", "c,mode=control"],
              ["-chardev", "pty,id=c", "-mon", "c,mode=control"]],
)  # fmt: skip
def test_monitors_that_cannot_be_used(words: list[str]) -> None:
    assert vm_of(words).control == ""


@pytest.mark.parametrize(
    ("words", "ram_bytes"),
    [
        ([], 128 * MIB),
        (["-m", "256"], 256 * MIB),
        (["-m", "256M"], 256 * MIB),
        (["-m", "2g,slots=2,maxmem=4G"], 2 * GIB),
        (["-m", "slots=2,size=2G"], 2 * GIB),
        (["-m", "2G", "-m", "slots=2"], 2 * GIB),
        (["-m", "1G", "-m", "2G"], 2 * GIB),
        (["-M", "q35,memory.size=2G"], 2 * GIB),
        (["-machine", "q35", "-m", "0"], 128 * MIB),
        (["-machine", "q35,memory-backend=m", "-object", "memory-backend-ram,id=m,size=1G"], GIB),
        (["-machine", "virt-9.2"], 128 * MIB),
        (["-machine", "pseries"], 0),
        (["-machine", "raspi4b"], 0),
        (["-m", "nonsense"], 0),
        (["-m", "9" * 39 + "e"], 0),
        (["-readconfig", "gone"], 0),
        (["-readconfig", "gone", "-m", "2G"], 2 * GIB),
        (["-readconfig", "f"], 2 * GIB),
        (["-readconfig", "f", "-m", "1G"], GIB),
        (["-m", "1G", "-readconfig", "f"], 2 * GIB),
    ],
)
def test_ram(words: list[str], ram_bytes: int) -> None:
    vm = vm_of(words, f='[memory]\nsize = "2048M"\n')
    assert vm.ram_bytes == vm.block_bytes == ram_bytes


def test_missing_options_of_an_unread_file_are_unknown() -> None:
    vm = vm_of(["-S", "-name", "v1", "-nodefaults", "-readconfig", "/run/incus/v1/qemu.conf"])
    capabilities = vm.capabilities
    assert {capabilities.balloon, capabilities.reports_pages, capabilities.statistics,
            capabilities.virtio_mem, capabilities.agent_channel} == {Answer.UNKNOWN}  # fmt: skip
    assert vm.unread == ("-readconfig /run/incus/v1/qemu.conf cannot be read",)
    seen = vm_of(["-m", "1G", "-readconfig", "gone", "-device", "virtio-balloon-pci"])
    assert seen.capabilities.balloon is Answer.YES
    assert seen.capabilities.reports_pages is Answer.UNKNOWN
    assert [block.backing for block in seen.ram_blocks] == [Backing.UNKNOWN]


@pytest.mark.parametrize("bus", ["pci", "ccw", "device"])
@pytest.mark.parametrize("kind", ["", "-transitional", "-non-transitional"])
@pytest.mark.parametrize("form", ["{d},{p}", "driver={d},id=b,{p}", "id=b,{p},driver={d}"])
def test_a_balloon_on_any_bus(bus: str, kind: str, form: str) -> None:
    driver = f"virtio-balloon-{bus}{kind if bus == 'pci' else ''}"
    for value, offered in (("on", True), ("yes", True), ("off", False), ("no", False)):
        text = form.format(d=driver, p=f"free-page-reporting={value}")
        assert vm_of(["-device", text]).capabilities.reports_pages is Answer.of(offered)
        words = ["-global", f"{driver}.free-page-reporting={value}", "-device", driver]
        assert vm_of(words).capabilities.reports_pages is Answer.of(offered)
        assert vm_of(words[2:] + words[:2]).capabilities.reports_pages is Answer.of(offered)


@pytest.mark.parametrize(
    "words",
    [
        ["-xen-domid", "5", "-machine", "xenfv", "-m", "4080"],
        ["-xen-domid", "5", "-M", "xenpv", "-nographic"],
        ["-machine", "xenpvh", "-m", "1024"],
        ["-machine", "pc,accel=xen", "-m", "1024"],
        ["-M", "q35", "-accel", "xen", "-m", "1024"],
        ["-xen-domid-restrict", "-xen-attach", "-M", "pc", "-m", "512"],
        ["--xen-domid", "1"],
        ["-machine", "type=xenfv-4.2,suppress-vmdesc=on"],
    ],
)
def test_a_device_model_of_xen(words: list[str]) -> None:
    assert is_xen(parse(tuple(words)))


@pytest.mark.parametrize(
    "words",
    [
        ["-M", "q35", "-accel", "kvm,xen-version=0x4000a,kernel-irqchip=split", "-m", "1G"],
        ["-name", "xen", "-append", "-xen-domid"],
        ["-device", "xen-platform", "-accel", "kvm"],
    ],
)
def test_a_mention_of_xen_does_not_make_a_device_model_of_xen(words: list[str]) -> None:
    assert not is_xen(parse(tuple(words)))


def test_a_name() -> None:
    assert vm_of(["-name", "guest=web 1,debug-threads=on"]).name == "web 1"
    assert vm_of(["-name", "a,,b", "-name", "debug-threads=on"]).name == "a,b"
    assert vm_of(["-readconfig", "f"], f='[name]\nguest = "v1"\n').name == "v1"
    process = Process(7, ("microvm@web", "-m", "1G"), "/bin/qemu-system-x86_64")
    assert describe(process, str).name == "web"
    assert describe(Process(7, ("qemu-kvm",)), str).name == "pid-7"
