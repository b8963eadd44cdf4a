"""What `giveback enable` changes in the configuration of Proxmox and Incus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from giveback.errors import InputError, VmError
from giveback.host.procs import Process
from giveback.vmm.control import incus, managed, proxmox

if TYPE_CHECKING:
    from pathlib import Path

OURS = '[device "qemu_balloon"]\nfree-page-reporting = "on"\n'
SECTION = '[device "qemu_balloon"]'


def test_a_vm_of_proxmox_is_recognised_by_its_options_and_proxmoxs_record(tmp_path: Path) -> None:
    words = ("kvm", "-id", "101", "-name", "web", "-pidfile", "/var/run/qemu-server/101.pid")
    assert proxmox.vmid_of(Process(7, words)) == "101"
    assert proxmox.vmid_of(Process(7, words[:-1])) == ""
    assert proxmox.vmid_of(Process(7, (*words[:2], "../1", *words[3:]))) == ""
    (tmp_path / "run/qemu-server").mkdir(parents=True)
    assert not proxmox.is_run_by(str(tmp_path), "101", 7)
    (tmp_path / "run/qemu-server/101.pid").write_text("7\n")
    assert proxmox.is_run_by(str(tmp_path), "101", 7)
    assert not proxmox.is_run_by(str(tmp_path), "101", 8)


@pytest.mark.parametrize(
    ("path", "instance"),
    [
        ("/run/incus/web/qemu.conf", "web"),
        ("/var/log/incus/shop_web/qemu.conf", "shop/web"),
        ("/run/incus/../x/qemu.conf", ""),
        ("/home/me/incus/web/qemu.conf", ""),
    ],
)
def test_a_vm_of_incus_is_recognised_by_the_file_that_it_reads(path: str, instance: str) -> None:
    process = Process(7, ("qemu-system-x86_64", "-name", "web", "-readconfig", path))
    assert incus.instance_of(process) == instance


@given(st.sampled_from(["", "0", "1024"]), st.booleans(), st.text(max_size=20))
def test_proxmoxs_balloon_is_switched_on_and_back(
    balloon: str, reporting: bool, machine: str
) -> None:
    config = {"machine": machine, "digest": "d"} | ({"balloon": balloon} if balloon else {})
    try:
        change = proxmox.change("101", config, reporting=reporting)
    except InputError:
        assert "-" in machine or (balloon == "1024" and not reporting)
        return
    if not change.command:
        assert reporting is (balloon != "0")
        return
    after = {"machine": machine} | ({} if reporting else {"balloon": "0"})
    back = proxmox.change("101", after, reporting=not reporting)
    assert (back.before, back.after) == (change.after, change.before)


def test_a_machine_that_cannot_report_is_named() -> None:
    old = {"machine": "pc-i440fx-5.1", "balloon": 0}
    with pytest.raises(InputError, match=r"below 6\.2"):
        proxmox.change("101", old, reporting=True)
    assert proxmox.change("101", {**old, "machine": "pc-q35-10.1+pve0"}, reporting=True).command


def test_incus_gets_the_property_and_loses_it_again() -> None:
    assert incus.changed_conf("", reporting=True) == OURS
    assert incus.changed_conf(OURS, reporting=True) == OURS
    assert incus.changed_conf(OURS, reporting=False).strip() == ""
    own = f'[memory]\nmaxmem = "4G"\n{SECTION}\nmultifunction = "off"\n[machine]\n'
    with_it = incus.changed_conf(own, reporting=True)
    assert f'{SECTION}\nfree-page-reporting = "on"\nmultifunction = "off"\n[machine]\n' in with_it
    assert incus.changed_conf(with_it, reporting=False) == own


def test_a_configuration_that_removes_the_balloon_is_left() -> None:
    with pytest.raises(InputError, match="remove that section first"):
        incus.changed_conf(f"{SECTION}\n[machine]\nx = 1\n", reporting=True)


LINES = st.lists(
    st.sampled_from(
        [SECTION, f"{SECTION}[0]", "[machine]", "a = 1", 'free-page-reporting = "off"', "", "junk"]
    ),
    max_size=8,
)


@given(LINES)
def test_any_configuration_is_changed_once_and_undone(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    try:
        on = incus.changed_conf(text, reporting=True)
    except InputError:
        assert SECTION in text
        return
    assert incus.changed_conf(on, reporting=True) == on
    assert 'free-page-reporting = "on"' in on.split("\n")
    assume("free-page-reporting" not in text)
    off = incus.changed_conf(on, reporting=False)
    assert [one for one in off.split("\n") if one] == [one for one in text.split("\n") if one]


def test_a_running_vm_a_profile_and_a_container_of_incus() -> None:
    vm = {"type": "virtual-machine", "status": "Running", "config": {}, "expanded_config": {}}
    change = incus.change("shop/web", vm, reporting=True)
    assert "incus stop --project shop web" in change.refusal
    assert incus.change("web", {**vm, "status": "Stopped"}, reporting=True).refusal == ""
    with pytest.raises(InputError, match="incus profile edit"):
        incus.change("web", {**vm, "expanded_config": {incus.KEY: OURS}}, reporting=True)
    with pytest.raises(InputError, match="container"):
        incus.change("web", {**vm, "type": "container"}, reporting=True)
    with pytest.raises(InputError, match="NAME or PROJECT/NAME"):
        incus.change("a/b/c", vm, reporting=True)


@given(st.binary(max_size=60))
def test_any_answer_is_an_object_or_an_error(data: bytes) -> None:
    try:
        assert isinstance(managed.parse_object(data, "pvesh get"), dict)
    except VmError as error:
        problem = str(error)
        assert "pvesh get" in problem
