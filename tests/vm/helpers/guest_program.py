"""What programs that run in a guest begin with: they are text, and have nothing of ours to import."""

from __future__ import annotations

PAGE_CACHE = """
import ctypes, mmap, os

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]

def cached_pages(path):
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    pages = ctypes.create_string_buffer(size // 4096)
    libc.mincore(address, size, pages)
    libc.munmap(address, size)
    os.close(fd)
    return sum(byte & 1 for byte in pages.raw[: size // 4096])

def read_whole(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(65536):
            pass

def write(path, text):
    with open(path, "w") as file:
        file.write(text)
"""
"""`cached_pages(path)` of the page cache, `read_whole(path)`, `write(path, text)`, and `libc`."""
