"""Input from VMMs: command lines, configuration files, QMP, HTTP, libvirt's XML."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import tempfile
from functools import cache
from typing import TYPE_CHECKING

from fuzzing.guests import VM
from fuzzing.harness import Harness
from giveback.host.procs import Process, parse_cmdline
from giveback.vmm.backends import (
    cloud_hypervisor,
    firecracker,
    libvirt,
    qemu,
    qemu_args,
    qemu_options,
    qemu_shape,
)
from giveback.vmm.clients import http, qmp

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_QEMU = (
    (
        b"qemu-system-x86_64\0-name\0guest=web,debug-threads=on\0-m\0size=2G,slots=4,maxmem=8G\0-machine\0"
        b"q35,memory-backend=ram\0-object\0memory-backend-memfd,id=ram,size=2G,share=on\0-device\0"
        b"virtio-balloon-pci,id=b,free-page-reporting=on\0-qmp\0unix:/run/qmp.sock,server=on,wait=off\0-chardev\0"
        b"socket,id=c,path=/run/a.sock,server=on\0-device\0virtserialport,chardev=c,name=org.giveback.agent.0\0"
    ),
    (
        b'qemu-system-aarch64\0-object\0{"qom-type":"memory-backend-ram","id":"m","size":1073741824}\0-numa\0'
        b"node,memdev=m\0-global\0virtio-balloon-pci.free-page-reporting=on\0-set\0device.b.x=y\0-mon\0c\0"
    ),
)
_OTHERS = (
    (
        b"cloud-hypervisor\0--memory\0size=1G,hotplug_method=virtio-mem,hotplug_size=2G\0--balloon\0"
        b"size=0,free_page_reporting=on\0--api-socket\0/run/ch.sock\0--vsock\0cid=3,socket=/run/v.sock\0"
    ),
    b"firecracker\0--id\0a\0--api-sock\0/run/fc.sock\0--config-file\0/etc/vm.json\0",
)
_CONFIG = b"""\
# qemu config file
[machine]
  type = "q35"
[object "ram"]
  qom-type = "memory-backend-ram"
  size = "1073741824"
[device "b"]
  driver = "virtio-balloon-pci"
  free-page-reporting = "on"
"""
_XML = b"""\
<domain type="kvm"><name>a</name><devices><memballoon model="virtio" freePageReporting="on">\
<stats period="5"/></memballoon><channel type="unix"><source mode="bind" path="/run/a"/>\
<target type="virtio" name="org.giveback.agent.0" state="disconnected"/></channel><memory model="dimm">\
<target><size unit="KiB">1048576</size><current unit="KiB">7</current></target><alias name="dimm0"/></memory>\
</devices><!-- c --><?p i?></domain>"""
_ANSWERS: tuple[object, ...] = (
    {"stats": {"stat-total-memory": 1 << 30, "stat-free-memory": 2**64 - 1}, "last-update": 17},
    {"guest-features": {"dev-features": ["VIRTIO_BALLOON_F_REPORTING: x"]}, "actual": 5},
    [
        {"capability": "postcopy-ram", "state": True},
        {"label": "c", "filename": "unix:/a,server=on"},
    ],
    {"base-memory": 1 << 30, "plugged-memory": 0},
    {"config": {"memory": {"size": 1 << 30, "zones": [{"id": "z", "size": 5, "hotplug_size": 3}]}}},
    {
        "machine-config": {"mem_size_mib": 1024},
        "balloon": {"free_page_reporting": True},
        "vsock": {},
    },
    [
        {
            "type": "dimm",
            "data": {"id": "d", "memdev": "/objects/m", "size": 5, "node": 0, "addr": 1},
        }
    ],
)
_TREE = b"""\
FlatView #0
 AS "memory", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000a0000-00000000000affff (prio 1, ram): pc.ram @00000000000a0000 KVM
Host virtual address for 0x0 (pc.ram) is 0x7f0000000000
"""
_GREETING = (
    b'{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}\r\n'
    b'{"return": {}, "id": "__qmp#00000"}\r\n'
)
_HTTP = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\nContent-Type: application/json\r\n\r\n{"a": 1}'
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


def _qemu(data: bytes) -> object:
    process = Process(7, parse_cmdline(data), exe="/usr/bin/qemu-system-x86_64")
    found = qemu.QemuBackend("/nonexistent").recognise(process)
    arguments = qemu_options.parse(process.argv[1:], lambda _: None)
    return found, qemu_args.control_of(arguments, str)


def _other(data: bytes) -> object:
    argv = parse_cmdline(data)
    return [
        backend("/nonexistent").recognise(Process(7, argv, exe=f"/usr/bin/{exe}"))
        for backend, exe in (
            (cloud_hypervisor.CloudHypervisorBackend, "cloud-hypervisor"),
            (firecracker.FirecrackerBackend, "firecracker"),
        )
    ]


def _readconfig(data: bytes) -> object:
    text = data.decode("utf-8", "surrogateescape")
    found = qemu_options.config_sections(text)
    arguments = qemu_options.parse(("-readconfig", "/a"), lambda _: text)
    return found, qemu_args.describe(Process(7, ("qemu-system-x86_64",)), str, arguments)


def _xml(data: bytes) -> object:
    text = data.decode("utf-8", "surrogateescape")
    changed = libvirt.changed_xml(text, reporting=True, period_s=5)
    return (
        libvirt.parse_memballoon(text),
        libvirt.parse_agent_port(text),
        libvirt.closed_ports(text),
        libvirt.with_plugged_memory(VM, text),
        libvirt.parse_memballoon(changed),
    )


def _json_answers(data: bytes) -> object:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return None
    config = said if isinstance(said, dict) else {}
    return (
        qemu.ram_bytes(said),
        qemu.balloon_bytes(said, 1 << 30),
        qemu.parse_statistics(said),
        qemu.guest_features(said),
        qemu.capability_blockers(said),
        qemu_shape.chardev_sockets(said),
        qemu_shape.closed_sockets(said),
        qemu_shape.plugged_socket(said),
        qemu_shape.base_blocks(said, said, 1 << 30),
        cloud_hypervisor.from_config(VM, config, str),
        cloud_hypervisor.parse_statistics(said),
        firecracker.from_config(VM, config, str),
        firecracker.parse_statistics(config),
        firecracker.config_of(data),
    )


def _human(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    return qemu.parse_layout(text), [qemu.parse_host_address(line) for line in text.splitlines()]


class _Server:
    """A VMM's socket that answers every client with the given bytes, then closes."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.mkdtemp(prefix="giveback-fuzz-")
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.path = f"{self.folder}/s"
        self.data = b""
        self.loop.run_until_complete(asyncio.start_unix_server(self._serve, self.path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(self.data)
        writer.close()

    def ask(
        self, data: bytes, question: Callable[[str], Coroutine[object, object, object]]
    ) -> object:
        self.data = data
        return self.loop.run_until_complete(question(self.path))


@cache
def _server() -> _Server:
    return _Server()


async def _query(path: str) -> object:
    async with qmp.monitor(path, os.getpid(), 2.0) as monitor:
        return await monitor.ask("query-balloon")


async def _get(path: str) -> object:
    async with http.api(path, os.getpid(), 2.0) as session:
        return await session.get("/api/v1/vm.info")


_OPTIONS = (
    b"\0-device\0",
    b"\0-object\0",
    b"\0-set\0",
    b"\0-global\0",
    b"\0-m\0",
    b",id=a",
    b"on",
    b"off",
    b"\0-mon\0",
)
_JSON = tuple(json.dumps(answer).encode() for answer in _ANSWERS)
HARNESSES = (
    Harness("command-line-qemu", _qemu, _QEMU, _OPTIONS),
    Harness(
        "command-line-others", _other, _OTHERS, (b"\0--memory\0", b"\0--memory-zone\0", b",size=1G")
    ),
    Harness("readconfig", _readconfig, (_CONFIG,), (b"[device]\n", b' = "on"\n', b"\n[")),
    Harness(
        "domain-xml",
        _xml,
        (_XML, _XML.replace(b'"5"', b'"\xc2\xb2"')),
        (b"<memory>", b"</memory>", b"<!DOCTYPE a>", b"<![CDATA[", b"&lt;", b"&#x0;"),
    ),
    Harness(
        "vmm-answers",
        _json_answers,
        _JSON,
        (b'"size":', b'"id":', b'"data":', b'"type":"virtio-mem"'),
    ),
    Harness(
        "qemu-human",
        _human,
        (_TREE,),
        (b"FlatView #", b'AS "memory"', b"(prio 0, ram): ", b" @0000"),
    ),
    Harness(
        "qmp",
        lambda data: _server().ask(data, _query),
        (
            _GREETING + b'{"return": {"actual": 7}, "id": "__qmp#00001"}\r\n',
            _GREETING + b'{"event": "STOP"}\r\n',
        ),
        (b'{"return": ', b'{"error": ', b'"id": ', b"{\n", b"\n}\n"),
        is_slow=True,
    ),
    Harness(
        "http-answer",
        lambda data: _server().ask(data, _get),
        (_HTTP, _CHUNKED),
        (
            b"Content-Length: ",
            b"\r\n\r\n",
            b"HTTP/1.1 100 \r\n\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"ffffffff\r\n",
        ),
        is_slow=True,
    ),
)
