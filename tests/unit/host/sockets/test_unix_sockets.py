"""Sockets at which clients are served or wait, by the kernel's own list."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from giveback.host.sockets import unix_sockets
from giveback.host.sockets.sock_diag import ESTABLISHED, LISTENING, FileId, UnixSocket

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = FileId(8, 1), FileId(8, 2), FileId(9, 1)


def test_served_and_waiting_clients() -> None:
    found = unix_sockets.queues_of(
        (
            UnixSocket(100, LISTENING, A, waiting=1),
            UnixSocket(101, ESTABLISHED, A),
            UnixSocket(102, LISTENING, B),
            UnixSocket(103, ESTABLISHED, B),
            UnixSocket(104, LISTENING, C, waiting=2),
            UnixSocket(105, ESTABLISHED),
        )
    )
    assert found.has_waiting(A)
    assert found.serves(B)
    assert not found.has_waiting(B)
    assert not found.serves(C)
    assert not found.has_waiting(C), "not accepted yet, but no other client is served"
    assert not found.serves(None)


def test_two_sockets_of_the_same_name_have_separate_queues(tmp_path: Path) -> None:
    """Two containers may have such sockets. A name with a newline forges no line, either."""
    names = (tmp_path / "a", tmp_path / "b")
    servers, clients = [], []
    try:
        for folder in names:
            folder.mkdir()
            servers.append(server := socket.socket(socket.AF_UNIX))
            here = os.open(".", os.O_PATH)
            os.chdir(folder)
            try:
                server.bind("x\nsock")
            finally:
                os.fchdir(here)
                os.close(here)
            server.listen()
        for _ in range(2):
            clients.append(client := socket.socket(socket.AF_UNIX))
            client.connect(str(names[0] / "x\nsock"))
        clients.append(servers[0].accept()[0])
        table = unix_sockets.read()
        one, two = (unix_sockets.file_of(str(folder / "x\nsock")) for folder in names)
        assert table.has_waiting(one)
        assert not table.serves(two)
        within = f"/proc/{os.getpid()}/root{names[0]}/x\nsock"
        assert table.has_waiting(unix_sockets.file_of(within))
        assert not table.has_waiting(two)
        assert unix_sockets.file_of(f"{tmp_path}/none") is None
        assert unix_sockets.file_of("@name") is None
    finally:
        for one_socket in (*servers, *clients):
            one_socket.close()
