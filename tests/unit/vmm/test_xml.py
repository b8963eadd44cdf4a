"""Untrusted XML: everything is parsed except a document type."""

from __future__ import annotations

import string
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import VmError
from giveback.vmm.backends.libvirt import (
    changed_xml,
    closed_ports,
    difference,
    parse_agent_port,
    parse_memballoon,
    with_plugged_memory,
)
from giveback.vmm.base import VmDescription
from giveback.vmm.clients import xml
from giveback.vmm.control.libvirt import parse_virtio_mem

DEVICES = """<devices><memballoon model='virtio' freePageReporting='on'><stats period='5'/></memballoon>
<channel type='unix'><source mode='bind' path='/run/&amp;/a'/>
<target type='virtio' name='org.giveback.agent.0'/></channel></devices>"""
METADATA = {
    "CDATA (OpenNebula/one#1254)": "<one:name xmlns:one='http://x'><![CDATA[web 1]]></one:name>",
    "CDATA with everything": "<n><![CDATA[<!DOCTYPE a [<!ENTITY b 'c'>]> & <!-- ]] > ]]></n>",
    "CDATA in two": "<n><![CDATA[a]]]]><![CDATA[>b]]></n>",
    "comment": "<!-- <!DOCTYPE a> <!ENTITY b 'c'> & <devices> -->",
    "instruction": "<?php <!DOCTYPE a> ?>",
    "escaped": "<n>&lt;!DOCTYPE a&gt; &#60;!ENTITY &#x26; &apos;&quot;</n>",
    "attribute": "<n a='&lt;!DOCTYPE'/>",
    "default namespace": "<n xmlns='http://y'><devices><memballoon model='none'/></devices></n>",
    "nova": "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>"
    "<nova:name>a</nova:name></nova:instance>",
    "other scripts": "<名前>Ünïcödé 🐧</名前>",
}
HEADS = ["", "<?xml version='1.0'?>", "<?xml version='1.0' encoding='UTF-16'?>\n",
         "<!-- <!DOCTYPE --><?a b?>"]  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("metadata", METADATA.values(), ids=list(METADATA))
def test_every_parser_accepts_legal_xml(metadata: str, head: str) -> None:
    text = f"{head}<domain><metadata>{metadata}</metadata>{DEVICES}</domain>\n<!-- end -->"
    assert parse_memballoon(text).reporting
    assert parse_memballoon(text).period_s == 5
    assert parse_agent_port(text) == "/run/&/a"
    assert parse_virtio_mem(text) == ()
    vm = VmDescription("libvirt", "a", 1, 1 << 30, ())
    assert with_plugged_memory(vm, text) == vm
    changed = changed_xml(text, reporting=False, period_s=7)
    assert not parse_memballoon(changed).reporting
    # All else is unchanged: names with their prefixes, text, comments.
    assert difference(text, changed_xml(changed, reporting=True, period_s=5), "a") == ""


def test_ports_that_no_program_opened() -> None:
    text = DEVICES.replace("agent.0'/>", "agent.0' state='disconnected'/>")
    assert closed_ports(f"<domain>{text}</domain>") == {"/run/&/a"}
    assert closed_ports(f"<domain>{text.replace('dis', '')}</domain>") == frozenset()
    assert closed_ports(f"<domain>{DEVICES}</domain>") == frozenset()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<!DOCTYPE domain><domain/>", "document type"),
        ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "document type"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "document type"),
        ("<?xml version='1.0'?><!-- a --><!DOCTYPE a [<!ENTITY % b SYSTEM 'x'> %b;]><a/>",
         "document type"),
        ("<a><!ENTITY b 'c'></a>", "does not parse"),
        ("<a>&undeclared;</a>", "does not parse"),
        ("<a>" * 201 + "</a>" * 201, "nests"),
        ("<a>" + " " * xml.LIMIT_BYTES + "</a>", "longer than 4 MiB"),
        ("", "does not parse"),
        ("<a/><b/>", "does not parse"),
        ("<a>\ud800</a>", "does not parse"),
        ("<a>\0</a>", "does not parse"),
    ],
)  # fmt: skip
def test_documents_that_are_refused_and_why(text: str, why: str) -> None:
    with pytest.raises(VmError, match=why):
        xml.parse(text)


def test_the_deepest_allowed_document_is_parsed_and_written() -> None:
    text = "<a>" * 200 + "</a>" * 200
    assert ET.tostring(xml.parse(text), encoding="unicode").count("<a") == 200


@given(st.text(string.printable + "<!DOCTYPE[]CDATA>&-"))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        xml.parse(f"<a>{text}</a>")
    except VmError:
        return


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")))
def test_text_in_cdata_is_text(text: str) -> None:
    root = xml.parse(f"<a><![CDATA[{text.replace(']]>', '')}]]></a>")
    assert (root.text or "") == text.replace("]]>", "")
