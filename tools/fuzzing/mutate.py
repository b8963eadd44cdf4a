"""Nearly valid inputs: seeds with parts cut, doubled, exchanged and replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

NASTY = (
    b"", b"\0", b"\n", b"\r\n", b" ", b"\t", b",", b",,", b"=", b":", b"/", b"\\", b'"', b"'", b"{", b"}",
    b"[", b"]", b"<", b">", b"&", b"#", b"-", b"-1", b"+1", b"0", b"1e999", b"1_0", b"nan", b"inf", b"0x1f",
    b"9" * 19, b"9" * 20, b"9" * 400, b"9" * 4301, b"18446744073709551615", b"18446744073709551616",
    b"\xff", b"\xc2\xb2", b"\xd9\xa1", b"\xe2\x80\xa8", b"\xed\xb2\x80", b"\x1b[2J", b"\x85", b"../..", b"%s",
    b"[" * 300, b'{"a":' * 300, b"null", b"true", b"a" * 300,
)  # fmt: skip


def mutated(random: Random, corpus: Sequence[bytes], tokens: Sequence[bytes], limit: int) -> bytes:
    """Return one input of the corpus with one to six changes, of at most `limit` bytes."""
    data = random.choice(corpus)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        start = random.randint(0, len(data))
        end = min(len(data), start + random.choice((0, 1, 1, 4, 16, 200)))
        kind = random.randrange(6)
        if kind == 0:
            middle = b""
        elif kind == 1:
            middle = random.choice(NASTY)
        elif kind == 2 and tokens:
            middle = random.choice(tokens)
        elif kind == 3:
            middle = data[start:end] * random.choice((2, 3, 50))
        elif kind == 4:
            other = random.choice(corpus)
            cut = random.randint(0, len(other))
            middle = other[cut : cut + random.choice((8, 64, 1000))]
        else:
            middle = random.randbytes(random.choice((1, 1, 2, 8)))
        data = data[:start] + middle + data[end:]
    return data[:limit]
