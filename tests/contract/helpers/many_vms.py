"""Hundreds of VMs at the price of one: a process with a QEMU's command line and RAM, forked again and again.

Each child writes a name of its own over its copy of the command line, of the same length, so that the
kernel shows another VM. They have no agent.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from named_python import ENVIRONMENT, python_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_guests import Host

_PROGRAM = r"""
import ctypes, mmap, os, signal, sys
count, size = int(sys.argv[1]), int(sys.argv[2]) << 20
whole = mmap.mmap(-1, size + 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(whole)) + 4096
libc = ctypes.CDLL(None)
for guard in (base - 4096, base + size):
    libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(4096), 0)
start = int(open("/proc/self/stat").read().rpartition(")")[2].split()[45])
words = open("/proc/self/cmdline", "rb").read()
at = start + words.rindex(b"vm-000")
parent = os.getpid()
children = []
for number in range(count):
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, signal.SIGKILL)
        ctypes.memmove(at, b"vm-%03d" % number, 6)
        ctypes.memset(base, 1, (number % 8 + 1) * size // 16)
        os.write(1, b"%d\n" % os.getpid())
        while os.getppid() == parent:
            signal.pause()
        os._exit(0)
    children.append(pid)
os.write(1, b"all\n")
signal.pause()
"""


@contextlib.contextmanager
def many_vms(host: Host, count: int, ram_mib: int = 16) -> Iterator[list[int]]:
    """Run VMs `vm-000`, `vm-001`, … that the host's daemon sees; yields their PIDs."""
    words = ["-m", f"{ram_mib}M", "-name", "vm-000"]
    parent = subprocess.Popen(
        ["/opt/qemu-system-x86_64", "-S", "-c", _PROGRAM, str(count), str(ram_mib), *words],
        executable=python_named("qemu-system-x86_64"),
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    pids: list[int] = []
    try:
        assert parent.stdout is not None
        while len(pids) < count:
            line = parent.stdout.readline().strip()
            assert line, "the VMs ended"
            if line != b"all":
                pids.append(int(line))
                host.show(pids[-1])
        yield pids
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()
        for pid in pids:
            host.hide(pid)
