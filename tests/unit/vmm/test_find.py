"""A VM is chosen by what an operator calls it, and whoever calls none is told what there is."""

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
def test_a_name_a_pid_and_the_key_that_every_output_shows_call_a_vm(word: str) -> None:
    assert key_of(WEB[1]) == "qemu:web%201:7"
    assert choose((WEB, DB), word) is WEB


def test_no_word_calls_the_only_vm() -> None:
    assert choose((DB,), "") is DB
    with pytest.raises(InputError, match=r"^several VMs run on this host; give a name, a key or a"):
        choose((WEB, DB), "")
    with pytest.raises(InputError, match=r"^no VM runs on this host"):
        choose((), "")


def test_a_word_that_calls_none_or_several_is_told_with_all_there_are() -> None:
    with pytest.raises(InputError, match=r"no VM is called 'x'; .* of: 'web 1' \(pid 7\), 'db'"):
        choose((WEB, DB), "x")
    with pytest.raises(InputError, match="several VMs are called 'db'"):
        choose((DB, DB), "db")
