"""A VM is chosen by its name, key or PID; an error lists the VMs."""

from __future__ import annotations

import pytest

from giveback.errors import InputError
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import VmDescription, key_of
from giveback.vmm.find import choose

WEB, DB = (
    (QemuBackend(), VmDescription("qemu", name, pid, 1 << 30, ()))
    for pid, name in ((7, "web 1"), (8, "db"))
)


@pytest.mark.parametrize("word", ["web 1", "7", "qemu:web%201:7"])
def test_a_name_a_pid_and_a_key_select_a_vm(word: str) -> None:
    assert key_of(WEB[1]) == "qemu:web%201:7"
    assert choose((WEB, DB), word) is WEB


def test_no_name_selects_the_only_vm() -> None:
    assert choose((DB,), "") is DB
    with pytest.raises(InputError, match=r"^several VMs run on this host; give a name, a key or a"):
        choose((WEB, DB), "")
    with pytest.raises(InputError, match=r"^no VM runs on this host"):
        choose((), "")


def test_the_error_for_no_match_or_several_lists_all_vms() -> None:
    with pytest.raises(InputError, match=r"no VM is called 'x'; .* of: 'web 1' \(pid 7\), 'db'"):
        choose((WEB, DB), "x")
    with pytest.raises(InputError, match="several VMs are called 'db'"):
        choose((DB, DB), "db")
