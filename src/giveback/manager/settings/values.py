"""Parse settings that are text: sizes and spans, marks (a part of memory or a size), addresses. Pure.

A wrong value raises ValueError, whose message says what is allowed; pydantic adds the setting's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeGuard
from urllib.parse import urlsplit

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import parse_size, parse_span, size

SIZE_LIMIT_BYTES = 1 << 57
_URL_LIMIT_CHARS = 2048
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) ?%", re.ASCII)
SHORTEST_S, LONGEST_S = 1.0, 86400.0


@dataclass(frozen=True, slots=True)
class MemoryMark:
    """An amount of available memory: a fraction of the total between two bounds, or fixed."""

    fraction: float | None = None
    least_bytes: int = 0
    most_bytes: int = SIZE_LIMIT_BYTES

    def of(self, total_bytes: int) -> int:
        """Return the mark on a host of this size, in bytes; at most half of the size."""
        if self.fraction is None:
            wanted = self.least_bytes
        else:
            part = int(total_bytes * self.fraction)
            wanted = min(max(part, self.least_bytes), self.most_bytes)
        return min(wanted, total_bytes // 2)

    def __str__(self) -> str:
        return size(self.least_bytes) if self.fraction is None else f"{self.fraction * 100:g}%"


def size_of(value: object) -> int:
    """Return `"4G"` in bytes; K, M, G and T are powers of 1024."""
    found = parse_size(value) if _has_unit(value) or value == "0" else None
    if found is not None and found < SIZE_LIMIT_BYTES:
        return found
    raise ValueError('a size with its unit, as text: "512M", "4G", "1.5T"')


def span_of(value: object) -> float:
    """Return `"30s"` in seconds."""
    found = parse_span(value) if _has_unit(value) else None
    if found is not None and SHORTEST_S <= found <= LONGEST_S:
        return found
    raise ValueError('a time with its unit, as text, from "1s" to "24h": "30s", "5m"')


def _has_unit(value: object) -> TypeGuard[str]:
    """Return whether a setting is text that ends in a unit; a bare number could be of any unit."""
    return isinstance(value, str) and value.strip()[-1:].isalpha()


def mark_of(value: object) -> MemoryMark:
    """Return the mark of `"10%"` (of memory, at least 64 MiB), or of a size such as `"8G"`."""
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None and 0 < float(match[1]) <= 50:
        return MemoryMark(fraction=float(match[1]) / 100, least_bytes=64 << 20)
    if match is None:
        try:
            found = size_of(value)
        except ValueError:
            found = 0
        if found > 0:
            return MemoryMark(least_bytes=found)
    raise ValueError('a part of memory up to "50%", or a size: "10%", "8G"')


def loopback_of(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Return a loopback address and a port, from `"127.0.0.1:9835"` or `"[::1]:9835"`."""
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.strip("[]"))
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 16:
        raise ValueError(
            f'{escape_for_terminal(text, 80)!r} is not ADDRESS:PORT, such as "127.0.0.1:9835"'
        )
    if not address.is_loopback:
        raise ValueError(
            f"{escape_for_terminal(text, 80)!r}: only loopback addresses; for other hosts, put a proxy "
            "with authentication in front"
        )
    return address, number


def collector_url(text: str) -> str:
    """Return the URL to which metrics are sent; `/v1/metrics` is added if it has no path.

    Raises ValueError, without the setting's name, for all but an http or https URL. A URL with credentials
    is refused, because the settings file and the status are readable by others.
    """
    parts = urlsplit(text)
    is_url = parts.scheme in ("http", "https") and parts.hostname
    if not is_url or len(text) > _URL_LIMIT_CHARS or not text.isascii() or not text.isprintable():
        raise ValueError(
            f"{escape_for_terminal(text, 80)!r} is not a URL: give one such as 'http://127.0.0.1:4318'"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "no credentials, query or fragment: set OTEL_EXPORTER_OTLP_HEADERS in the daemon's environment"
        )
    if parts.port == 0:
        raise ValueError(f"{escape_for_terminal(text, 80)!r} has port 0")
    return text if parts.path.strip("/") else text.rstrip("/") + "/v1/metrics"
