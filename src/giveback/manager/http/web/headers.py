"""Check a browser's headers: the host that it asks, the origin of its request, its cookie. Pure.

Source: RFC 9110 section 7.2 (Host), RFC 6454 (Origin), RFC 6265 (Cookie); Fetch Metadata (Sec-Fetch-Site).
"""

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KEY_HEADER = "x-giveback-key"
COOKIE_LIMIT_BYTES = 8 << 10
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No inline code, nothing from other origins, no embedding in frames, and no text that becomes HTML."""
SECURITY = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def decoded(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return an ASGI scope's headers by name; the last one if a name came twice."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}


def host_and_port(host: str) -> tuple[str, str]:
    """Split a Host header; the port is "80" if it names none."""
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        return host, "80"
    return name, port


def is_loopback(host: str) -> bool:
    """Return whether a Host header names this machine itself: another name may have been rebound."""
    name, port = host_and_port(host)
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        return False
    if name.lower() == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    return False


def may_be_rebound(host: str) -> bool:
    """Return whether public DNS could resolve a Host header's name: then a foreign page may be asking."""
    return "." in host_and_port(host)[0] and not is_loopback(host)


def is_browsers(headers: Mapping[str, str]) -> bool:
    """Return whether a browser sent the request: giveback's commands and curl send none of these headers."""
    return any(name in headers for name in ("origin", "sec-fetch-site", "cookie", KEY_HEADER))


def is_same_origin(headers: Mapping[str, str], *, is_read: bool) -> bool:
    """Return whether the request is from this daemon's own page. A request that acts must name its origin."""
    site = headers.get("sec-fetch-site", "same-origin")
    origin = headers.get("origin")
    if site not in ("same-origin", "none") or (origin is None and not is_read):
        return False
    return origin in (None, f"http://{headers.get('host', '')}")


def cookie_name(host: str) -> str:
    """Return the cookie's name: browsers keep cookies by host, whatever its port, so the port is in it."""
    return f"giveback-{host_and_port(host)[1]}"


def cookie_value(headers: Mapping[str, str]) -> str:
    """Return this address's cookie; "" if there is none."""
    wanted = cookie_name(headers.get("host", ""))
    for part in headers.get("cookie", "")[:COOKIE_LIMIT_BYTES].split(";"):
        name, _, value = part.strip().partition("=")
        if name == wanted:
            return value
    return ""
