"""Read values from untrusted JSON: a value of an unexpected type counts as absent."""

from __future__ import annotations

from giveback.vmm.base import amount
from giveback_kernel.units import parse_qemu_size

MIB = 1 << 20


def node(value: object, *names: str) -> dict[str, object]:
    """Return the object at this path of keys, or {}."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def nodes(value: object, name: str) -> tuple[dict[str, object], ...]:
    """Return the objects in the array `name`."""
    found = value.get(name) if isinstance(value, dict) else None
    return tuple(n for n in found if isinstance(n, dict)) if isinstance(found, list) else ()


def size(value: dict[str, object], name: str) -> int | None:
    """Return the number at `name` as bytes; None if it is absent or not plausible."""
    return amount(value.get(name))


def written(text: str, default_unit: str = "b") -> int | None:
    """Parse a size on a command line by QEMU's rules; return bytes, or None if it is not plausible."""
    return amount(parse_qemu_size(text, default_unit))


def mib(value: dict[str, object], name: str) -> int | None:
    """Return the number of MiB at `name` as bytes; None if it is absent or not plausible."""
    found = amount(value.get(name))
    return None if found is None or found >= 1 << 37 else found * MIB


def truth(value: dict[str, object], name: str) -> bool:
    """Tell whether the value at `name` is JSON's true."""
    return value.get(name) is True


def text(value: dict[str, object], name: str, limit: int = 4096) -> str:
    """Return the text at `name`, cut to `limit` characters; '' if it is absent or not text."""
    found = value.get(name)
    return found[:limit] if isinstance(found, str) else ""
