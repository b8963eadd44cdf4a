"""Foreign JSON and sizes, read without trust: what is not of the expected type is not there."""

from __future__ import annotations

from giveback.vmm.base import amount
from giveback_kernel.units import parse_qemu_size

MIB = 1 << 20


def node(value: object, *names: str) -> dict[str, object]:
    """The object at this path, or {} where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def nodes(value: object, name: str) -> tuple[dict[str, object], ...]:
    """The objects of the array `name`."""
    found = value.get(name) if isinstance(value, dict) else None
    return tuple(n for n in found if isinstance(n, dict)) if isinstance(found, list) else ()


def size(value: dict[str, object], name: str) -> int | None:
    """Bytes."""
    return amount(value.get(name))


def written(text: str, default_unit: str = "b") -> int | None:
    """A size on a command line, as QEMU reads it, in bytes; None for none, or an absurd one."""
    return amount(parse_qemu_size(text, default_unit))


def mib(value: dict[str, object], name: str) -> int | None:
    """A number of MiB, in bytes."""
    found = amount(value.get(name))
    return None if found is None or found >= 1 << 37 else found * MIB


def truth(value: dict[str, object], name: str) -> bool:
    """True only for JSON's true."""
    return value.get(name) is True


def text(value: dict[str, object], name: str, limit: int = 4096) -> str:
    """Text, cut to `limit` characters; '' for what is none."""
    found = value.get(name)
    return found[:limit] if isinstance(found, str) else ""
