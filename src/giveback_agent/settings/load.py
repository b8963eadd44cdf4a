"""Load the agent's settings from their layers.

From lowest to highest: default, `.wslconfig` (under WSL 2), `/etc/giveback.conf` (the same syntax), the
command line. An invalid value in a file causes a warning, and the layer below counts; on the command line
it is an error. docs/settings.md is the table for users; a test compares it with the code.
"""

from __future__ import annotations

import errno
import os

from giveback_agent.errors import UsageError
from giveback_agent.settings.table import NOTHING, TABLE, AgentSettings, Setting, choices
from giveback_agent.wsl import wslconfig
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record, replace
from giveback_kernel.units import parse_wsl_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from giveback_agent.wsl.detect import WslHost
    from giveback_agent.wsl.wslconfig import ConfigEntry

CONF_PATH = "/etc/giveback.conf"
DEFAULT = "default"
COMMAND_LINE = "command line"


# WSL 1.1.7 and later warn of an `Unknown key` (microsoft/WSL#9899).
DROPPED_BY_WSL = ("wsl2.pagereporting", "wsl2.idlethreshold")


class Loaded(Record):
    """The effective settings, the source of each field's value, every warning, and the files read.

    A source is `default`, `FILE:LINE` or `command line`. `files` has (path, state) pairs.
    """

    settings: AgentSettings
    sources: dict[str, str]
    warnings: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()


def load(root: str, overrides: Sequence[str], wsl: WslHost | None = None) -> Loaded:
    """Read every layer. `overrides` are the command line's `section.key=value`; the last one counts.

    Raises UsageError for an invalid override, which it names. Contents of a file never raise an error.
    """
    settings = AgentSettings()
    sources = dict.fromkeys(AgentSettings._fields, DEFAULT)
    warnings: list[str] = []
    seen: list[tuple[str, str]] = []
    for path, state, data, notes in _read_files(root, wsl):
        warnings += notes
        seen.append((path, state))
        if data is not None:
            entries, complaints = wslconfig.parse(data, path)
            warnings += complaints
            settings = _apply(settings, entries, path, sources, warnings)
    for override in overrides:
        setting, value = _override(override)
        settings = replace(settings, **{setting.field: value})
        sources[setting.field] = COMMAND_LINE
    return Loaded(settings, sources, tuple(warnings), tuple(seen))


def detect_wsl(root: str) -> WslHost | None:
    """Detect WSL 2. The detection is imported only if there is a sign of WSL: 150 KiB saved elsewhere."""
    try:
        release = files.read(root, "/proc/sys/kernel/osrelease", 4096)
    except KernelFileError:
        release = b""
    named = b"microsoft" in release or b"WSL" in release
    if named or "WSL_INTEROP" in os.environ or any(files.exists(root, p) for p in _WSL_HINTS):
        from giveback_agent.wsl.detect import detect

        return detect(root)
    return None


def parse_value(setting: Setting, key: str, text: str) -> object:
    """Parse a value of `setting`, written under `key`; None if it is not valid or out of range."""
    if setting.kind == "bool":
        return wslconfig.parse_bool(text)
    if setting.kind == "enum":
        choice = wslconfig.parse_enum(text, choices(key))
        return None if choice is None else choice.lower()
    if setting.kind == "patterns":
        # Few guests have this setting. The others do not pay for the import.
        from giveback_agent.cgroups.exclusion import parse_patterns

        return () if text.strip().lower() == NOTHING else parse_patterns(text)
    number = parse_wsl_size(text) if setting.kind == "size" else wslconfig.parse_int(text)
    return number if number is not None and setting.low <= number <= setting.high else None


def complaint(setting: Setting, key: str, text: str, where: str) -> str:
    """Describe an invalid value in WSL's words; `where` is ` in FILE:LINE` or similar."""
    value = wslconfig.quoted_value(text)
    if setting.kind == "enum":
        valid = ", ".join(choices(key))
        return f"Invalid value '{value}' for config key '{key}'{where} (Valid values: {valid})"
    if setting.kind == "bool":
        return f"Invalid boolean value '{value}' for key '{key}'{where}"
    if setting.kind == "size":
        return f"Invalid memory string '{value}' for entry '{key}'{where}"
    if setting.kind == "patterns":
        return (
            f"Invalid patterns '{value}' for key '{key}'{where} (Valid values: up to 32 names or paths of "
            "cgroups, such as postgresql.service, machine.slice/libpod-*)"
        )
    words = f"Invalid integer value '{value}' for key '{key}'{where}"
    if wslconfig.parse_int(text) is None:
        return words
    return f"{words} (Valid values: {setting.low} to {setting.high})"


def _read_files(
    root: str, wsl: WslHost | None
) -> Iterable[tuple[str, str, bytes | None, Sequence[str]]]:
    """Yield each possible file, the lowest layer first: (path, state, bytes or None, warnings)."""
    if wsl is not None:
        from giveback_agent.wsl.detect import find_wslconfig

        found = find_wslconfig(root, wsl)
        yield found.path or ".wslconfig", found.how, found.data, found.warnings
    try:
        data = files.read(root, CONF_PATH, wslconfig.FILE_LIMIT_BYTES)
    except KernelFileError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            yield CONF_PATH, "not there", None, ()
        else:
            yield CONF_PATH, "not read", None, (f"Failed to open config file {error}",)
    else:
        yield CONF_PATH, "read", data, ()


def _apply(
    settings: AgentSettings,
    entries: Iterable[ConfigEntry],
    path: str,
    sources: dict[str, str],
    warnings: list[str],
) -> AgentSettings:
    """Apply one file's entries to `settings`; add their sources and warnings."""
    known, unknown = [], []
    for entry in entries:
        row = _ROWS.get(entry.name.lower())
        if row is None:
            unknown.append(entry)
        else:
            known.append((*row, entry))
    notes: list[tuple[int, str]] = []
    for _, setting, entry in sorted(known, key=lambda k: -k[0]):
        where = f" in {path}:{entry.line}"
        value = parse_value(setting, entry.name, entry.value)
        if value is None:
            notes.append((entry.line, complaint(setting, entry.name, entry.value, where)))
        else:
            settings = replace(settings, **{setting.field: value})
            sources[setting.field] = f"{path}:{entry.line}"
        if path != CONF_PATH and entry.name.lower() in DROPPED_BY_WSL:
            notes.append((entry.line, f"'{entry.name}'{where}: {_DROPPED_NOTE}"))
    if unknown:
        from giveback_agent.settings.unknown_keys import advise

        notes += advise(unknown, path)
    warnings += [text for _, text in sorted(notes)]
    return settings


def _override(override: str) -> tuple[Setting, object]:
    """Parse one `section.key=value`; `giveback.` may be left out. Raises UsageError."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise UsageError(
            f"'{wslconfig.quoted_value(override)}': a setting is given as section.key=value"
        )
    if "." not in key:
        key = f"giveback.{key}"
    row = _ROWS.get(key.lower())
    if row is None:
        from giveback_agent.settings.unknown_keys import nearest

        guess = nearest(key, [k for s in TABLE for k in s.keys])
        hint = f": did you mean '{guess}'?" if guess else ""
        raise UsageError(
            f"Unknown setting '{wslconfig.quoted_value(key)}' on the command line{hint}"
        )
    value = parse_value(row[1], key, text)
    if value is None:
        shown_key = wslconfig.quoted_value(key)
        raise UsageError(complaint(row[1], shown_key, text, " on the command line"))
    return row[1], value


_ROWS = {key.lower(): (rank, setting) for setting in TABLE for rank, key in enumerate(setting.keys)}
_WSL_HINTS = (
    "/run/WSL",
    "/proc/sys/fs/binfmt_misc/WSLInterop",
    "/proc/sys/fs/binfmt_misc/WSLInterop-late",
)
_DROPPED_NOTE = (
    "WSL itself ignores this key since 1.1.7 and calls it unknown; giveback-agent honours it"
)
