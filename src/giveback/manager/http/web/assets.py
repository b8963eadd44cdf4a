"""The page's files, read once: each with its media type and an entity tag, so that browsers can cache it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    data: bytes
    media_type: str
    tag: str


def read_all(folder: Path = FOLDER) -> dict[str, Asset]:
    """Return every file of the page by its path below the folder; {} if there is none."""
    return {
        str(path.relative_to(folder)): _asset(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _TYPES
    }


def _asset(path: Path) -> Asset:
    data = path.read_bytes()
    return Asset(data, _TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')
