"""The kernel's list of sockets, and their owners."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from giveback.host.sockets import descriptors, sock_diag
from giveback.host.sockets.sock_diag import FileId, TcpListener

if TYPE_CHECKING:
    from pathlib import Path


def inode(of: socket.socket) -> int:
    return os.fstat(of.fileno()).st_ino


def test_a_listener_has_an_inode_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))
        server.listen()
        file = FileId.of(path.stat())
        (listed,) = (one for one in sock_diag.listening_sockets() if one.file == file)
        (asked,) = sock_diag.unix_sockets_of((inode(server), 3))
        assert listed.inode == asked.inode == inode(server)
        assert asked.state == sock_diag.LISTENING
        assert asked.name.rstrip(b"\0") == os.fsencode(path)
        assert inode(server) in descriptors.sockets_of("/", os.getpid(), 1 << 14)
        assert descriptors.has_socket("/", os.getpid(), inode(server))
        assert not descriptors.has_socket("/", os.getpid(), 1)
        assert len(descriptors.sockets_of("/", os.getpid(), 1)) == 1
        with path.with_name("file").open("w"):
            assert descriptors.has_file("/", os.getpid(), f"{path.with_name('file')}")
        assert not descriptors.has_file("/", os.getpid(), f"{path.with_name('file')}")


def test_a_connection_has_a_peer_after_it_was_accepted(tmp_path: Path) -> None:
    with (
        closing(socket.socket(socket.AF_UNIX)) as server,
        closing(socket.socket(socket.AF_UNIX)) as client,
    ):
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
        assert sock_diag.peer_inode(inode(client)) == 0
        with closing(server.accept()[0]) as accepted:
            assert sock_diag.peer_inode(inode(client)) == inode(accepted)
    assert sock_diag.peer_inode(3) == 0


def test_tcp_listeners_of_both_families() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with closing(socket.create_server((address, 0), family=family)) as server:
            port = server.getsockname()[1]
            wanted = TcpListener(inode(server), address, port)
            assert wanted in sock_diag.tcp_listeners()


@given(st.binary(max_size=200))
def test_any_answer_is_parsed(data: bytes) -> None:
    for _, body in sock_diag.parse_messages(data):
        assert len(body) <= len(data)
    sock_diag.parse_unix(bytes(16) + data)
    sock_diag.parse_tcp(bytes(72) + data)
