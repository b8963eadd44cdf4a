"""Who waits at which socket, by /proc/net/unix."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback.host import unix_sockets

TABLE = b"""Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 100 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 03 101 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 02 102 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 03 103 /run/with space.sock
0000000000000000: 00000003 00000000 00000000 0001 02 104 /run/c.sock
0000000000000000: 00000003 00000000 00000000 0001 03 105
"""


def test_who_is_served_and_who_waits() -> None:
    found = unix_sockets.parse(TABLE)
    assert found.has_waiting("/proc/12/root/run/a.sock")
    assert found.has_waiting("/tmp/fake/proc/12/root/run/a.sock")
    assert found.serves("/run/with space.sock")
    assert not found.has_waiting("/run/with space.sock")
    assert not found.serves("/run/c.sock")
    assert not found.has_waiting("/run/c.sock"), "not taken yet, but nobody is served before"
    assert unix_sockets.read("/nowhere") == unix_sockets.Queues()


@given(st.binary(max_size=300))
def test_no_text_does_harm(text: bytes) -> None:
    unix_sockets.parse(text)
