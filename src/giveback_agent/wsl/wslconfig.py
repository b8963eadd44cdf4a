"""The syntax of `.wslconfig` by WSL's own rules, which `/etc/giveback.conf` also uses.

Source: microsoft/WSL `src/shared/configfile/configfile.cpp` (syntax, warnings) and
`src/shared/inc/stringshared.h` (`ParseBool`; its sizes are in `giveback_kernel.units`). It is stricter than
WSL: a size or number that does not fit is refused, not wrapped; so is a negative size. A file longer than
`FILE_LIMIT_BYTES` is cut, and an invalid value is shortened and escaped in a warning.

Nothing here raises on any input: an invalid line causes a warning with its file and line, and is skipped.
"""

from __future__ import annotations

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# A settings file has a few hundred bytes; no user writes this much.
FILE_LIMIT_BYTES = 64 << 10
WARNING_LIMIT = 50
SHOWN_LIMIT_CHARS = 80

INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1

_ALPHA = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = "0123456789"
_ALNUM = _ALPHA | frozenset(_DIGITS)
_HSPACE = " \t"
_C_SPACE = " \t\n\v\f\r"
_ESCAPES = {"\\": "\\", '"': '"', "b": "\b", "n": "\n", "t": "\t"}


class ConfigEntry(Record):
    """A `key = value` line: names as written, the value without quotes, escapes and comment.

    `section` is empty before the first header. `line` is the line where the value ends, as in WSL's own
    warnings if a value is continued.
    """

    section: str
    key: str
    value: str
    line: int

    @property
    def name(self) -> str:
        """The full key as written: `wsl2.memory`, or `memory` outside of any section."""
        return f"{self.section}.{self.key}" if self.section else self.key


def parse(data: bytes, filename: str) -> tuple[tuple[ConfigEntry, ...], tuple[str, ...]]:
    """Parse the bytes of a settings file; return the effective entries in order, and every warning.

    Of entries with the same name (in any case) the first counts, even if its value is invalid.
    `filename` is used only in the warnings.
    """
    text, notes = _decode(data, filename)
    scanner = _Scanner(text, filename)
    scanner.scan()
    warnings = notes + scanner.warnings
    if len(warnings) > WARNING_LIMIT:
        left_out = len(warnings) - WARNING_LIMIT
        warnings = [*warnings[:WARNING_LIMIT], f"{left_out} more warnings for {filename} left out"]
    return tuple(scanner.entries.values()), tuple(warnings)


def quoted_value(text: str) -> str:
    """Escape and shorten text from a file for a log line or a terminal."""
    return escape_for_terminal(text.split("\0", 1)[0], SHOWN_LIMIT_CHARS, "...")


def _decode(data: bytes, filename: str) -> tuple[str, list[str]]:
    """Decode as the Windows C library does with `rt,ccs=UTF-8`: without byte-order mark, CR LF as LF.

    WSL refuses big-endian UTF-16; it is read here, as no editor writes it by mistake.
    """
    notes = []
    cut = len(data) > FILE_LIMIT_BYTES
    if cut:
        data = data[:FILE_LIMIT_BYTES]
        notes.append(f"{filename} is longer than {FILE_LIMIT_BYTES} bytes: the rest is not read")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace")
    else:
        if cut:
            data = data[: data.rfind(b"\n") + 1]
        if data.startswith(b"\xef\xbb\xbf"):
            data = data[3:]
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            notes.append(f"Not UTF-8 in {filename}:{line}: save the file as UTF-8")
            text = data.decode("utf-8", "replace")
    if cut:
        text = text[: text.rfind("\n") + 1]
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        notes.append(
            f"NUL character in {filename}:{line}: is it UTF-16 with no byte-order mark? "
            "Save the file as UTF-8"
        )
    return text.replace("\r\n", "\n"), notes


class _Scanner:
    """A scan of the text, with WSL's rules of where a line ends and what makes it invalid."""

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        self.at = 0
        self.line = 1
        self.section = ""
        self.entries: dict[str, ConfigEntry] = {}
        self.warnings: list[str] = []

    def scan(self) -> None:
        while True:
            char = self._skip_hspace()
            if char == "":
                return
            if char == "\r":
                self.at += 1  # a lone CR is not counted as a line
            elif char in "\n#":
                self._next_line()
            elif char == "[":
                self._section()
            elif char in _ALPHA:
                self._key_value()
            else:
                self._invalid("Invalid key name")

    def _char(self) -> str:
        return self.text[self.at : self.at + 1]

    def _skip_hspace(self) -> str:
        """Advance to the next character that is neither space nor tab, and return it; "" at the end."""
        while self.text[self.at : self.at + 1] in (" ", "\t"):
            self.at += 1
        return self._char()

    def _name(self) -> str:
        start = self.at
        while self._char() in _ALNUM:
            self.at += 1
        return self.text[start : self.at]

    def _next_line(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end + 1
        self.line += 1

    def _end_of_line(self) -> None:
        """Go to the line after a valid one. A lone CR ends a line like LF; a comment ends at LF only."""
        if self._char() == "\r":
            self.at += 1
            self.line += 1
        else:
            self._next_line()

    def _invalid(self, why: str) -> None:
        self.warnings.append(f"{why} in {self.filename}:{self.line}")
        self._next_line()

    def _section(self) -> None:
        self.at += 1
        if self._char() not in _ALPHA:
            self._invalid("Invalid section name")
            return
        name = self._name()
        # After a broken header WSL goes on with the new name, cut or padded to the length of the old one: the
        # keys that follow then belong to no real section, and must not do so here either.
        broken = name.ljust(len(self.section), "\0")[: len(self.section)]
        if self._char() != "]":
            self.section = broken
            self._invalid("Expected ']'")
            return
        self.at += 1
        if self._skip_hspace() not in ("", "\n", "\r", "#"):
            self.section = broken
            self._invalid("Expected ' ' or '\\n'")
            return
        self.section = name
        self._end_of_line()

    def _key_value(self) -> None:
        key = self._name()
        if self._skip_hspace() != "=":
            self._invalid("Expected '='")
            return
        self.at += 1
        self._skip_hspace()
        value = self._value()
        if value is None:
            return
        self._keep(ConfigEntry(self.section, key, value.split("\0", 1)[0], self.line))
        self._end_of_line()

    def _value(self) -> str | None:
        """Parse the value that starts at `at`, up to the character that ends it; None if it is invalid."""
        value: list[str] = []
        kept = 0  # the length without trailing spaces that are not quoted
        in_quote = False
        while self._char() not in ("", "\n", "\r"):
            char = self._char()
            if char == "#" and not in_quote:
                break
            if char == '"':
                in_quote = not in_quote
            elif char == "\\":
                self.at += 1
                escaped = self._char()
                if escaped == "\n":
                    self.line += 1
                elif escaped in _ESCAPES:
                    value.append(_ESCAPES[escaped])
                else:
                    self._invalid(f"Invalid escaped character: '{quoted_value(escaped)}'")
                    return None
            else:
                value.append(char)
            if char not in _HSPACE:
                kept = len(value)
            self.at += 1
        if in_quote:
            self._invalid('Expected "')
            return None
        return "".join(value[:kept])

    def _keep(self, entry: ConfigEntry) -> None:
        first = self.entries.setdefault(entry.name.lower(), entry)
        if first is not entry:
            self.warnings.append(
                f"Duplicated config key '{quoted_value(entry.name)}' in {self.filename}:{entry.line} "
                f"(Conflicting key: '{quoted_value(first.name)}' in {self.filename}:{first.line})"
            )


def parse_bool(value: str) -> bool | None:
    """Parse 1, 0, true or false in any case; None for anything else."""
    return {"1": True, "true": True, "0": False, "false": False}.get(value.lower())


def parse_int(value: str) -> int | None:
    """Parse an integer as C's `strtol` with base 0: 0x for hex, 0 for octal. None if it is not valid.

    It must fit in 32 bits (WSL, on Windows, takes a larger one as the largest).
    """
    text = value.lstrip(_C_SPACE)
    sign = -1 if text.startswith("-") else 1
    if text[:1] in ("-", "+"):
        text = text[1:]
    base, digits = 10, text
    if text[:2] in ("0x", "0X"):
        base, digits = 16, text[2:]
    elif text.startswith("0"):
        base = 8
    allowed = "0123456789abcdefABCDEF" if base == 16 else _DIGITS[:base]
    if not digits or len(digits) > SHOWN_LIMIT_CHARS or not all(c in allowed for c in digits):
        return None
    number = sign * int(digits, base)
    return number if INT_MIN <= number <= INT_MAX else None


def parse_enum(value: str, choices: Sequence[str]) -> str | None:
    """Return the one of `choices` that equals `value` in any case; None if none does."""
    for choice in choices:
        if choice.lower() == value.lower():
            return choice
    return None
