"""Sizes as people write them on a command line."""

from __future__ import annotations

import re

from giveback.errors import InputError

FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)


def parse_size(text: str, setting: str) -> int:
    """Bytes from "512M", "2G", "1.5GiB"; powers of 1024. Raises InputError that names `setting`."""
    found = SIZE.fullmatch(text)
    if found is None:
        raise InputError(f"{setting} {text!r}: not a size: write it like 2G or 512M")
    return int(float(found[1]) * FACTORS[found[2].upper()])
