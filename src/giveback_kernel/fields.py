"""Strict parsers of the tokens in kernel files.

`int()` alone would accept signs, underscores and any length. Kernel files have none of these, so
such a token is invalid.
"""

from __future__ import annotations

from giveback_kernel.errors import KernelFileError

# Counters are unsigned long in the kernel.
COUNTER_LIMIT = 1 << 64
# No processor addresses more than 57 bits; a larger amount of memory is invalid.
BYTES_LIMIT = 1 << 57
_DIGITS_LIMIT = 20


def number(path: str, name: str, token: bytes, limit: int = COUNTER_LIMIT) -> int:
    """Parse an unsigned decimal below `limit`. Raises KernelFileError for anything else."""
    if not token.isdigit() or len(token) > _DIGITS_LIMIT:
        raise KernelFileError(path, f"{name} is not a number: {quoted(token)}")
    value = int(token)
    if value >= limit:
        raise KernelFileError(path, f"{name} is absurd: {value}")
    return value


def signed(path: str, name: str, token: bytes, limit: int = COUNTER_LIMIT) -> int:
    """Parse a decimal of either sign. Raises KernelFileError for anything else."""
    if token.startswith(b"-"):
        return -number(path, name, token[1:], limit)
    return number(path, name, token, limit)


def percent(path: str, name: str, token: bytes) -> float:
    """Parse a kernel percentage such as `0.50`, 0 to 100. Raises KernelFileError for anything else."""
    whole, _, fraction = token.partition(b".")
    if not whole.isdigit() or not fraction.isdigit() or len(token) > _DIGITS_LIMIT:
        raise KernelFileError(path, f"{name} is not a percentage: {quoted(token)}")
    value = float(token)
    if value > 100.0:
        raise KernelFileError(path, f"{name} is absurd: {quoted(token)}")
    return value


def lines(data: bytes) -> list[bytes]:
    """Split into lines and drop an unfinished last one: half a number is a wrong number."""
    return data.split(b"\n")[:-1]


def text(data: bytes) -> str:
    r"""Decode arbitrary bytes; a byte outside UTF-8 is kept as `\xNN`."""
    return data.decode("utf-8", "backslashreplace")


def quoted(token: bytes) -> str:
    """Return foreign bytes for an error message: bounded and printable."""
    return repr(token[:40])


def unescaped(token: bytes) -> bytes:
    """Undo the kernel's octal escapes of space, tab, newline and backslash in a file name.

    Source: mangle_path() in fs/seq_file.c.
    """
    if b"\\" not in token:
        return token
    head, *rest = token.split(b"\\")
    parts = [head]
    for part in rest:
        digits = part[:3]
        if len(digits) == 3 and all(b"0"[0] <= d <= b"7"[0] for d in digits):
            parts.append(bytes((int(digits, 8) & 0xFF,)) + part[3:])
        else:
            parts.append(b"\\" + part)
    return b"".join(parts)
