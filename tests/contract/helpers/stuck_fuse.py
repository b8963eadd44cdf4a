"""A FUSE file system that never answers requests for a file's bytes or for the name `hang`.

Who asks for the name ignores SIGKILL until the file system's connection is closed; who reads a file can be
killed. Needs root. Source: include/uapi/linux/fuse.h; request_wait_answer() in fs/fuse/dev.c.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIBC = ctypes.CDLL(None, use_errno=True)
_IN, _OUT = struct.Struct("=IIQQIIII"), struct.Struct("=IiQ")
_ATTRIBUTES = struct.Struct("=6Q10I")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _INIT, _BATCH_FORGET, _OPENDIR = (
    1,
    2,
    3,
    14,
    15,
    26,
    42,
    27,
)
_RELEASE, _FLUSH = 18, 25
_ENOSYS = 38
_MNT_DETACH = 2


def usable() -> bool:
    """Tell whether a FUSE file system can be mounted here."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Mount it at `folder`; every name in it except `hang` is a file of one page."""
    folder.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if _LIBC.mount(b"stuck", os.fsencode(folder), b"fuse", 0, options) != 0:
        os.close(device)
        raise OSError(ctypes.get_errno(), f"mount {folder}")
    server = threading.Thread(target=_serve, args=(device,), daemon=True)
    server.start()
    try:
        yield folder
    finally:
        # A forced unmount (`umount -f`) aborts pending requests.
        _LIBC.umount2(os.fsencode(folder), 1 | _MNT_DETACH)
        server.join(10)
        os.close(device)


def _serve(device: int) -> None:
    while True:
        try:
            request = os.read(device, 1 << 20)
        except InterruptedError:
            continue
        except OSError:
            return
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        answer = _answer(opcode, node, request[_IN.size :])
        if answer is not None:
            error, body = answer
            with contextlib.suppress(OSError):
                os.write(device, _OUT.pack(_OUT.size + len(body), error, unique) + body)


def _answer(opcode: int, node: int, body: bytes) -> tuple[int, bytes] | None:
    if opcode in (_READ, _FORGET, _BATCH_FORGET) or (opcode, body) == (_LOOKUP, b"hang\0"):
        return None
    if opcode == _INIT:
        return 0, struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 8, 8, 4096, 1, 1, 0, *([0] * 8))
    if opcode == _LOOKUP:
        return 0, struct.pack("=4Q2I", 2, 0, 3600, 3600, 0, 0) + _attributes(2)
    if opcode == _GETATTR:
        return 0, struct.pack("=Q2I", 3600, 0, 0) + _attributes(node)
    if opcode in (_OPEN, _OPENDIR):
        return 0, struct.pack("=Q2I", 0, 0, 0)
    if opcode in (_RELEASE, _FLUSH):
        return 0, b""
    return -_ENOSYS, b""


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == 1 else 0o100644
    return _ATTRIBUTES.pack(node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
