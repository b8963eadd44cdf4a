"""What VMMs say of their devices, read without trust."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError, VmError
from giveback.vmm.backends.libvirt import parse_agent_port
from giveback.vmm.backends.qemu_shape import plugged_socket
from giveback.vmm.base import VmDescription
from giveback.vmm.control.address import control_at, control_of
from giveback.vmm.control.agent_port import free_root_port
from giveback.vmm.control.libvirt import parse_virtio_mem, requested_xml
from giveback.vmm.control.qemu import dimm_bytes

KIB, MIB = 1 << 10, 1 << 20
XML = """<domain><devices>
<memory model='dimm'><target><size unit='KiB'>1024</size></target></memory>
<memory model='virtio-mem'><target><size unit='KiB'>524288</size><node>0</node>
  <block unit='KiB'>2048</block><requested unit='KiB'>262144</requested>
  <current unit='KiB'>131072</current></target><alias name='virtiomem0'/></memory>
<channel type='unix'><source mode='bind' path='/run/a'/><target type='virtio' name='other'/></channel>
<channel type='unix'><source mode='bind' path='/run/b'/>
  <target type='virtio' name='org.giveback.agent.0'/></channel>
</devices></domain>"""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["devices", "pci_bridge", "qdev_id", "label", "filename", "type", "data", "size"]), inner),
    max_leaves=20,
)  # fmt: skip


def test_libvirt_s_virtio_mem() -> None:
    (device,) = parse_virtio_mem(XML)
    assert (device.id, device.block_bytes) == ("virtiomem0", 2 * MIB)
    assert (device.requested_bytes, device.plugged_bytes) == (256 * MIB, 128 * MIB)
    changed = requested_xml(XML, "virtiomem0", 64 * MIB)
    assert '<requested unit="KiB">65536</requested>' in changed
    assert "dimm" not in changed
    with pytest.raises(VmError, match="no virtio-mem device gone"):
        requested_xml(XML, "gone", 0)
    assert parse_agent_port(XML) == "/run/b"


def test_the_address_of_a_control_leads_back_to_it() -> None:
    vm = VmDescription("libvirt", "one #1", 1, 0, ())
    for address in (
        "qemu:/run/q:1",
        "qemu:localhost:4444",
        "cloud-hypervisor:/c",
        "firecracker:/f",
    ):
        assert control_at(address, 1).address == address
    address = control_of(vm, "qemu:///system").address
    assert address == "libvirt:qemu:///system#one #1"
    assert control_at(address, 1).address == address
    for bad in ("", "qemu:", "libvirt:qemu:///system", "xen:/x"):
        with pytest.raises(InputError):
            control_at(bad, 1)
    with pytest.raises(InputError, match="no control socket"):
        control_of(VmDescription("qemu", "two", 1, 0, ()), "")


def test_where_a_port_was_plugged_in() -> None:
    for said in ("unix:/run/a b,server=on", "disconnected:unix:/run/a b,server=on"):
        assert (
            plugged_socket([{"label": "x"}, {"label": "giveback-agent", "filename": said}])
            == "/run/a b"
        )
    assert plugged_socket([{"label": "giveback-agent", "filename": "pty"}]) == ""


def test_a_free_root_port() -> None:
    taken = {"qdev_id": "rp1", "pci_bridge": {"bus": {}, "devices": [{"qdev_id": "net"}]}}
    free = {"qdev_id": "rp2", "pci_bridge": {"bus": {}}}
    assert free_root_port([{"devices": [{"qdev_id": "vga"}, taken, free]}]) == "rp2"
    assert free_root_port([{"devices": [taken]}]) == ""


@given(json_values)
def test_nonsense_is_nothing(said: object) -> None:
    assert isinstance(plugged_socket(said), str)
    assert dimm_bytes(said) >= 0
    assert isinstance(free_root_port(said if isinstance(said, list) else [said]), str)
