"""The syntax of `.wslconfig`, by WSL's own rules; `/etc/giveback.conf` is written in the same.

Source: microsoft/WSL `src/shared/configfile/configfile.cpp` (syntax, warnings) and
`src/shared/inc/stringshared.h` (`ParseBool`; its sizes are in `giveback_kernel.units`). What differs,
all of it in the direction of refusing: a size or number that does not fit is refused, not wrapped; so
is a negative size; a file longer than `FILE_LIMIT_BYTES` is cut; what is shown of a bad value is cut
and escaped.

Nothing here raises on any input: a bad line is a warning with its file and line, and is skipped.
"""

from __future__ import annotations

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# A settings file is a few hundred bytes; nobody's hand wrote this much.
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
    """One `key = value` line: names as written, the value without its quotes, escapes and comment.

    `section` is empty before the first header. `line` is where the value ends, which is the line
    WSL names, too, when a value is continued.
    """

    section: str
    key: str
    value: str
    line: int

    @property
    def name(self) -> str:
        """The key in full, as written: `wsl2.memory`, or `memory` outside of any section."""
        return f"{self.section}.{self.key}" if self.section else self.key


def parse(data: bytes, filename: str) -> tuple[tuple[ConfigEntry, ...], tuple[str, ...]]:
    """Read a settings file's bytes: the entries that count, in order, and every warning.

    Of entries with the same name (in any case) the first counts, even if its value is bad.
    `filename` only appears in the warnings.
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
    """Make text from a file safe and short enough for a log line or a terminal."""
    return escape_for_terminal(text.split("\0", 1)[0], SHOWN_LIMIT_CHARS, "...")


def _decode(data: bytes, filename: str) -> tuple[str, list[str]]:
    """The text as the Windows C library's `rt,ccs=UTF-8` gives it: byte-order marks and CR LF gone.

    WSL refuses big-endian UTF-16; it is read here, for no editor writes it by mistake.
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
    """One walk over the text, with WSL's idea of where a line ends and what invalidates it."""

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
                self.at += 1  # alone, it neither is nor counts as a line
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
        """Go to the next character that is neither space nor tab, and return it; "" at the end."""
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
        """Leave a good line. A lone CR ends it as well as LF does; a comment needs the LF."""
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
        # After a broken header WSL goes on with the new name cut or filled up to the old one's
        # length: what follows is then mostly nobody's, and must be nobody's here, too.
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
        """The value that starts here, `at` left on what ended it; None if the line is invalid."""
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
    """1, 0, true or false, in any case; None for anything else."""
    return {"1": True, "true": True, "0": False, "false": False}.get(value.lower())


def parse_int(value: str) -> int | None:
    """A number as C's `strtol` with base 0 reads it: 0x for hex, 0 for octal. None if it is none.

    Of 32 bits; more is refused (WSL, on Windows, takes it for the largest).
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
    """The one of `choices` that `value` spells in any case; None if none does."""
    for choice in choices:
        if choice.lower() == value.lower():
            return choice
    return None
