"""A domain's memballoon is parsed and changed; the rest of the XML stays as it is."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError, VmError
from giveback.vmm.backends.libvirt import (
    Memballoon,
    changed_xml,
    difference,
    in_thread,
    parse_label,
    parse_memballoon,
    state_from,
    with_plugged_memory,
)
from giveback.vmm.base import Answer, RamBlock, VmDescription, VmState

XML = """<domain><name>a</name><devices><disk/><memballoon model="virtio">\
<address type="pci"/></memballoon></devices><seclabel type="none"/></domain>"""
VM = VmDescription("libvirt", "a", 1, 1 << 30, ())


def test_the_memballoon_is_parsed() -> None:
    assert parse_memballoon(XML) == Memballoon(present=True, reporting=False, period_s=0)
    changed = changed_xml(XML, reporting=True, period_s=7)
    assert parse_memballoon(changed) == Memballoon(present=True, reporting=True, period_s=7)
    assert parse_memballoon("<domain/>").present is False
    assert parse_memballoon(XML.replace("virtio", "none")).present is False


@given(st.booleans(), st.integers(0, 3600))
def test_a_change_and_its_reversal_leave_no_difference(reporting: bool, period_s: int) -> None:
    changed = changed_xml(XML, reporting=reporting, period_s=period_s)
    again = changed_xml(changed, reporting=reporting, period_s=period_s)
    assert difference(changed, again, "a") == ""
    assert difference(XML, changed, "a").startswith("--- a now")


def test_no_balloon_is_added_to_a_domain_without_one() -> None:
    with pytest.raises(InputError, match="add one first"):
        changed_xml("<domain><devices/></domain>", reporting=True)


@pytest.mark.parametrize(
    "bad", ["", "<a>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "x" * (2 << 20)]
)
def test_text_that_is_not_xml_is_refused(bad: str) -> None:
    with pytest.raises(VmError):
        parse_memballoon(bad)


@given(st.dictionaries(st.sampled_from(["actual", "unused", "available", "last_update"]),
                       st.integers() | st.none() | st.text(max_size=3)))  # fmt: skip
def test_any_statistics_make_a_state(stats: dict[str, object]) -> None:
    balloon = Memballoon(present=True, reporting=True, period_s=0)
    state = state_from(VM, stats, running=True, balloon=balloon)
    assert state.balloon_bytes is None or 0 <= state.balloon_bytes <= VM.ram_bytes
    assert state.description is not None
    assert state.description.capabilities.reports_pages is Answer.YES


def test_options_that_a_domain_adds_to_the_command_line_count() -> None:
    """<qemu:arg value='-global'/><qemu:arg value='virtio-balloon-pci.free-page-reporting=on'/>."""
    balloon = Memballoon(present=True, reporting=False, period_s=0)
    for offered in Answer:
        vm = replace(VM, capabilities=replace(VM.capabilities, reports_pages=offered))
        state = state_from(vm, {}, running=True, balloon=balloon)
        assert state.description is not None
        expected = Answer.of(offered is Answer.YES)
        assert state.description.capabilities.reports_pages is expected
        assert state.statistics_period_s == 0


DEVICES = """<domain><devices>
<memory model="dimm"><target><size unit="KiB">1024</size></target><alias name="dimm0"/></memory>
<memory model="dimm"><target><size unit="KiB">2048</size></target><alias name="dimm1"/></memory>
<memory model="virtio-mem"><target><size unit="KiB">8192</size><current unit="KiB">4096</current>
</target><alias name="virtiomem0"/></memory>
<memory model="nvdimm"><target><size unit="KiB">2048</size></target><alias name="nvdimm0"/></memory>
<memory model="dimm"><target><size unit="GiB">x</size></target><alias name="dimm9"/></memory>
<memory model="dimm"/></devices></domain>"""


def test_plugged_memory_is_found_in_the_xml() -> None:
    started = replace(VM, ram_blocks=(RamBlock("pc.ram", 1 << 30), RamBlock("memdimm0", 1 << 20)))
    found = with_plugged_memory(started, DEVICES)
    assert [(b.name, b.size_bytes >> 20, b.hotplug) for b in found.ram_blocks[2:]] == [
        ("memdimm1", 2, False),
        ("memvirtiomem0", 8, True),
    ]
    assert found.ram_bytes == VM.ram_bytes + (6 << 20)
    assert with_plugged_memory(VM, XML) == VM


def test_a_call_that_hangs_is_abandoned() -> None:
    release = threading.Event()

    def hang() -> VmState:
        release.wait(30)
        return VmState()

    with pytest.raises(VmError, match="did not answer"):
        asyncio.run(in_thread(hang, 0.05, "a"))
    release.set()


NOVAS = (
    '<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>v</nova:name>'
    '<nova:owner><nova:user uuid="1">u</nova:user><nova:project uuid="2">p</nova:project>'
    "</nova:owner></nova:instance>"
)


def labelled(metadata: str) -> str:
    return parse_label(f"<domain><metadata>{metadata}</metadata></domain>")


@pytest.mark.parametrize(
    ("metadata", "label"),
    [
        ('<giveback:owner xmlns:giveback="urn:giveback">team-a</giveback:owner>', "team-a"),
        ('<g:owner xmlns:g="urn:giveback"> team b\n</g:owner>', "team b"),
        ('<owner xmlns="urn:giveback">c</owner>', "c"),
        ('<!-- x --><?pi y?><g:owner xmlns:g="urn:giveback"><![CDATA[d & e]]></g:owner>', "d & e"),
        ('<owner xmlns="urn:another">c</owner><owner>c</owner>', ""),
        ('<o:owner xmlns:g="urn:giveback">c</o:owner>', ""),
        ('<g:owner xmlns:g="urn:giveback"/>', ""),
        (f'<g:owner xmlns:g="urn:giveback">{"x" * 65}</g:owner>', ""),
        ('<g:owner xmlns:g="urn:giveback">a\u202eb</g:owner>', ""),
        (NOVAS, "p"),
        ("<nova:instance><nova:owner/></nova:instance>", ""),
        ("", ""),
    ],
)
def test_the_metadata_names_the_owner(metadata: str, label: str) -> None:
    assert labelled(metadata) == label
