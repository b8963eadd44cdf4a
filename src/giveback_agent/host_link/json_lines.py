"""Lines between agent and host: one flat JSON object each, written and read without `json`.

Importing `json` costs the service 1 MB. The agent reads only short flat objects of strings, numbers, true,
false and null; anything else is not a message. docs/protocol.md lists the messages.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Scalar = Union[str, int, float, bool, None]

VERSION = 1
"""Version of the protocol. Readers ignore unknown keys; a key with a new meaning needs a new version."""
REQUEST_LIMIT_BYTES = 4096
"""The longest line that the agent reads."""
LINE_LIMIT_BYTES = 32 << 10
"""The longest line that it writes: Linux's virtio_console takes this much in one write, or nothing."""
_FIELDS_LIMIT = 32
_DIGITS_LIMIT = 18
# The shortest text of a double has up to 17 digits, below 0.001 after some zeros.
_FRACTION_LIMIT = 24
_SPACE = " \t\r\n"
_ESCAPES = {
    '"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
}  # fmt: skip


class _NoMessageError(Exception):
    """The text is not a flat JSON object. It never leaves this module."""


def quote(text: str) -> str:
    """Return `text` as a JSON string of plain ASCII."""
    out = []
    for character in text:
        code = ord(character)
        if character in '"\\':
            out.append("\\" + character)
        elif 32 <= code < 127:
            out.append(character)
        elif code <= 0xFFFF:
            out.append(f"\\u{code:04x}")
        else:
            code -= 0x10000
            out.append(f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
    return '"' + "".join(out) + '"'


def encode(value: object) -> str:
    """Return the JSON text of None, bools, numbers, strings, dicts and lists; other values as a string."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(round(value, 6)) if value - value == 0 else "null"
    if isinstance(value, dict):
        return "{" + ",".join([f"{quote(str(k))}:{encode(v)}" for k, v in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([encode(v) for v in value]) + "]"
    return quote(str(value))


def line_of(message: dict[str, object]) -> bytes:
    """Return the line of a message; b"" if it would be too long to send."""
    line = encode({"v": VERSION, **message}).encode("ascii") + b"\n"
    return line if len(line) <= LINE_LIMIT_BYTES else b""


def parse(line: bytes) -> dict[str, Scalar] | None:
    """Return the flat object in a line, or None for anything else. Never raises.

    It reads what `json.loads` does, but numbers are finite and have at most 18 digits, 24 after the point,
    and there are at most 32 keys.
    """
    if len(line) > REQUEST_LIMIT_BYTES:
        return None
    try:
        return _object(line.decode("utf-8"))
    except (UnicodeDecodeError, _NoMessageError):
        return None


def _object(text: str) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    at = _expect(text, 0, "{")
    if text[at : at + 1] != "}":
        while True:
            key, at = _string(text, at)
            at = _expect(text, at, ":")
            found[key], at = _scalar(text, at)
            if len(found) > _FIELDS_LIMIT:
                raise _NoMessageError
            if text[at : at + 1] != ",":
                break
            at = _skip(text, at + 1)
    if _expect(text, at, "}") != len(text):
        raise _NoMessageError
    return found


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, mark: str) -> int:
    """Return the position after `mark` and the space around it."""
    at = _skip(text, at)
    if text[at : at + 1] != mark:
        raise _NoMessageError
    return _skip(text, at + 1)


def _scalar(text: str, at: int) -> tuple[Scalar, int]:
    """Read the value at `at`; return it and the position after it."""
    if text[at : at + 1] == '"':
        return _string(text, at)
    end = at
    while end < len(text) and text[end] not in ",}" + _SPACE:
        end += 1
    word = text[at:end]
    if word in ("true", "false"):
        return word == "true", _skip(text, end)
    return (None if word == "null" else _number(word)), _skip(text, end)


def _number(word: str) -> int | float:
    mantissa, power, exponent = word.replace("E", "e").partition("e")
    whole, point, fraction = (mantissa[1:] if mantissa[:1] == "-" else mantissa).partition(".")
    digits = exponent[1:] if exponent[:1] in ("+", "-") else exponent
    right = _is_digits(whole) and (whole == "0" or whole[0] != "0")
    right = right and (_is_digits(fraction, _FRACTION_LIMIT) if point else True)
    right = right and (_is_digits(digits) if power else True)
    if not right:
        raise _NoMessageError
    if not point and not power:
        return int(word)
    value = float(word)
    if value - value != 0:
        raise _NoMessageError
    return value


def _is_digits(word: str, limit: int = _DIGITS_LIMIT) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= limit


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise _NoMessageError
    at += 1
    out: list[str] = []
    while at < len(text):
        character = text[at]
        if character == '"':
            return "".join(out), _skip(text, at + 1)
        if character < " ":
            raise _NoMessageError
        if character != "\\":
            out.append(character)
            at += 1
            continue
        escaped, at = _escaped(text, at + 1)
        _append(out, escaped)
    raise _NoMessageError


def _escaped(text: str, at: int) -> tuple[str, int]:
    mark = text[at : at + 1]
    if mark != "u":
        if mark not in _ESCAPES or not mark:
            raise _NoMessageError
        return _ESCAPES[mark], at + 1
    word = text[at + 1 : at + 5]
    if len(word) != 4 or word.strip("0123456789abcdefABCDEF"):
        raise _NoMessageError
    return chr(int(word, 16)), at + 5


def _append(out: list[str], character: str) -> None:
    """Append an escaped character; join the second half of a surrogate pair to the first."""
    # A lone first half in `out` is always an escaped one: text that is UTF-8 has no such halves.
    if out and "\ud800" <= out[-1] <= "\udbff" and "\udc00" <= character <= "\udfff":
        first = ord(out.pop()) - 0xD800
        character = chr(0x10000 + (first << 10) + ord(character) - 0xDC00)
    out.append(character)
