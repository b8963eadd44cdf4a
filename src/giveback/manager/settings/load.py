"""The manager's settings: one TOML file, checked completely before any of it takes effect.

docs/daemon-settings.md describes each setting. Sizes, spans and marks have units. An unknown key is an
error: otherwise a misspelt `floor` would take memory from a VM that should keep it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping  # noqa: TC003  # pydantic reads the annotations when it runs
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    TypeAdapter,
    ValidationError,
)

from giveback.errors import InputError, file_error
from giveback.guest import via_daemon
from giveback.manager.settings import access as access_rules
from giveback.manager.settings import errors, vm_patterns
from giveback.manager.settings.values import (
    MemoryMark,
    collector_url,
    loopback_of,
    mark_of,
    size_of,
    span_of,
)
from giveback.vmm.base import LABEL_LIMIT_CHARS
from giveback_kernel.errors import KernelFileError
from giveback_kernel.files import open_regular

FILE_LIMIT_BYTES = 1 << 20
HISTORY_LEAST_BYTES = 8 << 20
HORIZON_MOST_S = 600.0
CURRENCY_LIMIT_CHARS = 8
API_NAME = "api.sock"
SYSTEM_PATH = Path("/etc/giveback/giveback.toml")
SYSTEM_RUNTIME = Path(via_daemon.SYSTEM_FOLDER)
SYSTEM_STATE = Path("/var/lib/giveback-daemon")
_STRICT = ConfigDict(extra="forbid")


def _path_of(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("an absolute path, as text")
    return Path(value)


def _soon_enough(horizon_s: float) -> None:
    if horizon_s > HORIZON_MOST_S:
        raise ValueError('at most "10m": the forecast rests on 30 s of samples')


def _large_enough(limit_bytes: int) -> None:
    if limit_bytes < HISTORY_LEAST_BYTES:
        raise ValueError("at least 8M")


def _short_enough(label: str) -> None:
    if len(label) > LABEL_LIMIT_CHARS or not label.isprintable():
        raise ValueError(f"a text of at most {LABEL_LIMIT_CHARS} printable characters")


def _is_currency(text: str) -> None:
    if len(text) > CURRENCY_LIMIT_CHARS or not text.isprintable():
        raise ValueError(f'at most {CURRENCY_LIMIT_CHARS} printable characters, such as "EUR"')


def _taken_by(check: Callable[[Any], object]) -> AfterValidator:
    """Return a validator that accepts a value, unchanged, if `check` accepts it.

    `check` is the function that the daemon calls with the value at its start. Its message is the error's.
    """

    def taken(value: object) -> object:
        try:
            check(value)
        except (InputError, ValueError) as error:
            raise errors.in_words(str(error)) from error
        return value

    return AfterValidator(taken)


_Size = Annotated[int, BeforeValidator(size_of)]
_Seconds = Annotated[float, BeforeValidator(span_of)]
_Mark = Annotated[MemoryMark, BeforeValidator(mark_of)]
_Absolute = Annotated[Path, BeforeValidator(_path_of)]
_Label = Annotated[str, _taken_by(_short_enough)]
_Who = Annotated[str, _taken_by(lambda word: access_rules.access([word]))]


# Below the lower bound a host has no time to react; above the upper bound memory would stay unused.
_SHORT = MemoryMark(fraction=0.10, least_bytes=128 << 20, most_bytes=16 << 30)
_CALM = MemoryMark(fraction=0.15, least_bytes=192 << 20, most_bytes=24 << 30)


@dataclass(frozen=True, slots=True)
class ArbiterSettings:
    """`[host]` without its cgroup: when the host is short of memory, and when it has enough again."""

    short: MemoryMark = _SHORT
    calm: MemoryMark = _CALM
    horizon_s: float = 30.0
    calm_for_s: float = 30.0
    on_calm: Literal["keep", "cold"] = "keep"
    """On a host with enough memory, guests keep their caches (urgency 0) or return cold cache (1)."""


@dataclass(frozen=True, slots=True)
class VmSettings:
    """The settings that hold for one VM."""

    floor_bytes: int = 0
    weight: float = 1.0
    balloon: bool = False
    virtio_mem: bool = False
    although_reports: bool = False
    ignore: bool = False
    label: str = ""
    """The owner, such as a team, to whom `giveback usage` counts the VM's memory."""

    @property
    def may_fall_back(self) -> bool:
        """Whether a device may take memory from this VM."""
        return (self.balloon or self.virtio_mem) and not self.ignore


@dataclass(frozen=True, slots=True)
class UsageSettings:
    """`[usage]`: what memory costs, for `giveback usage`."""

    price_per_gib_hour: float | None = None
    """None: no cost is shown."""
    currency: str = ""


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """All settings in effect. `DaemonSettings.for_vm(name)` returns those of one VM."""

    socket: Path
    state: Path
    """The folder of the leases and, by default, of the history."""
    history: Path | None
    """The history's file; None if no history is kept."""
    history_limit_bytes: int = 256 << 20
    arbiter: ArbiterSettings = ArbiterSettings()
    cgroup: str | None = None
    """The control group that stands for the host; None: the host itself."""
    socket_group: str = ""
    metrics_listen: str = ""
    web_listen: str = ""
    """`127.0.0.1:9836`: the address of the web page for browsers; "" for the unix socket only."""
    otlp: str = ""
    """The URL of an OpenTelemetry collector; "" to send it nothing."""
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    access: access_rules.ApiAccess = field(default_factory=access_rules.ApiAccess)
    log_level: str = "info"
    usage: UsageSettings = UsageSettings()
    vms: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """For each pattern, in the order of the file, the fields of VmSettings that it sets."""
    source: str = "defaults"
    """The file, or `defaults`."""

    def for_vm(self, name: str) -> VmSettings:
        """Return the settings of a VM: each key comes from the most specific pattern that sets it."""
        found = [pattern for pattern in self.vms if vm_patterns.matches(pattern, name)]
        merged = VmSettings()
        for pattern in sorted(found, key=vm_patterns.specificity):
            merged = replace(merged, **self.vms[pattern])  # type: ignore[arg-type]
        return merged


_ARBITER = ArbiterSettings()


@dataclass(frozen=True, slots=True)
class _HostTable:
    __pydantic_config__ = _STRICT
    cgroup: _Absolute | None = None
    short: _Mark = _ARBITER.short
    calm: _Mark = _ARBITER.calm
    horizon: Annotated[_Seconds, _taken_by(_soon_enough)] = _ARBITER.horizon_s
    calm_for: _Seconds = _ARBITER.calm_for_s
    on_calm: Literal["keep", "cold"] = _ARBITER.on_calm

    def __post_init__(self) -> None:
        """Check that `calm` is above `short`, if both are percentages or both are sizes.

        A percentage and a size can be compared on the host only.
        """
        if words := _why_calm_is_too_low(self.short, self.calm):
            raise errors.in_words(words, "calm")


def _why_calm_is_too_low(short: MemoryMark, calm: MemoryMark) -> str:
    """Return what is wrong with the two marks; "" if nothing is, or they cannot be compared."""
    if short.fraction is not None and calm.fraction is not None:
        too_low = calm.fraction <= short.fraction
    else:
        alike = short.fraction is None and calm.fraction is None
        too_low = alike and calm.least_bytes <= short.least_bytes
    return f"{calm} must be more than host.short, which is {short}" if too_low else ""


def _lines_of_marks(table: Mapping[str, Any]) -> list[str]:
    """Return the error of the marks, which pydantic skips if another key of [host] is wrong."""
    host = table.get("host")
    try:
        said = host if isinstance(host, dict) else {}
        short, calm = (mark_of(said.get(k, getattr(_ARBITER, k))) for k in ("short", "calm"))
    except ValueError:
        return []
    words = _why_calm_is_too_low(short, calm)
    return [f"host.calm: {words}"] if words else []


@dataclass(frozen=True, slots=True)
class _DaemonTable:
    __pydantic_config__ = _STRICT
    socket: _Absolute | None = None
    socket_group: Annotated[str, _taken_by(lambda name: name and access_rules.group_id(name))] = ""
    state: _Absolute | None = None
    metrics_listen: Annotated[str, _taken_by(lambda address: address and loopback_of(address))] = ""
    web_listen: Annotated[str, _taken_by(lambda address: address and loopback_of(address))] = ""
    otlp: Annotated[str, _taken_by(lambda url: url and collector_url(url))] = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class _HistoryTable:
    __pydantic_config__ = _STRICT
    keep: StrictBool = True
    path: _Absolute | None = None
    limit: Annotated[_Size, _taken_by(_large_enough)] = 256 << 20


@dataclass(frozen=True, slots=True)
class _AccessTable:
    __pydantic_config__ = _STRICT
    write: tuple[_Who, ...] = ()
    read: tuple[_Who, ...] = ()


@dataclass(frozen=True, slots=True)
class _UsageTable:
    __pydantic_config__ = _STRICT
    price_per_gib_hour: (
        Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False, strict=True)] | None
    ) = None
    currency: Annotated[str, _taken_by(_is_currency)] = ""


@dataclass(frozen=True, slots=True)
class _VmTable:
    __pydantic_config__ = _STRICT
    floor: _Size | None = None
    weight: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False, strict=True)] | None = None
    balloon: StrictBool | None = None
    virtio_mem: StrictBool | None = None
    although_reports: StrictBool | None = None
    ignore: StrictBool | None = None
    label: _Label | None = None


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = _STRICT
    host: _HostTable = _HostTable()
    daemon: _DaemonTable = _DaemonTable()
    history: _HistoryTable = _HistoryTable()
    access: _AccessTable = _AccessTable()
    usage: _UsageTable = _UsageTable()
    vm: dict[str, _VmTable] = field(default_factory=dict)


_ADAPTER = TypeAdapter(_File)


def default_path(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return the default path of the settings: the system's for root, else the user's own."""
    if _is_root(uid):
        return SYSTEM_PATH
    return _xdg(environ, "XDG_CONFIG_HOME", ".config") / "giveback" / "giveback.toml"


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    uid: int | None = None,
) -> DaemonSettings:
    """Read the settings from `path`, which must exist. None: from the default path, if it exists.

    Raises InputError, which names the file and lists all its errors by full key.
    """
    chosen = default_path(environ, uid) if path is None else path
    try:
        with os.fdopen(open_regular(str(chosen)), "rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        if path is None:
            return from_bytes(b"", "defaults", environ=environ, uid=uid)
        raise InputError(f"{chosen}: there is no such settings file") from error
    except (OSError, KernelFileError) as error:
        raise file_error(str(chosen), error, "this is the settings file") from error
    return from_bytes(data, str(chosen), environ=environ, uid=uid)


def from_bytes(
    data: bytes,
    source: str,
    *,
    environ: Mapping[str, str] = os.environ,
    uid: int | None = None,
) -> DaemonSettings:
    """Return the settings in a file's bytes. Raises InputError as `load` does."""
    if len(data) > FILE_LIMIT_BYTES:
        raise InputError(
            f"{source}: longer than {FILE_LIMIT_BYTES} bytes; is this a settings file?"
        )
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not valid TOML: byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise InputError(f"{source}: not valid TOML: nested too deeply") from error
    except ValueError as error:
        # Also Python's own error for a number of more than 4,300 digits.
        raise InputError(f"{source}: not valid TOML: {error}") from error
    try:
        file = _ADAPTER.validate_python(table)
    except ValidationError as error:
        lines = errors.lines_of(error, _File)
        lines += [line for line in _lines_of_marks(table) if line not in lines]
        raise errors.refused(source, lines) from error
    return _effective(file, source, environ, uid)


def _effective(
    file: _File, source: str, environ: Mapping[str, str], uid: int | None
) -> DaemonSettings:
    """Return the settings with the defaults filled in."""
    host, daemon, history = file.host, file.daemon, file.history
    state = daemon.state or _state_folder(environ, uid)
    return DaemonSettings(
        socket=daemon.socket or runtime_folder(environ, uid) / API_NAME,
        state=state,
        history=(history.path or state / "history.db") if history.keep else None,
        history_limit_bytes=history.limit,
        arbiter=ArbiterSettings(host.short, host.calm, host.horizon, host.calm_for, host.on_calm),
        cgroup=None if host.cgroup is None else str(host.cgroup),
        socket_group=daemon.socket_group,
        metrics_listen=daemon.metrics_listen,
        web_listen=daemon.web_listen,
        otlp=daemon.otlp,
        writers=file.access.write,
        readers=file.access.read,
        access=access_rules.access(file.access.write, file.access.read),
        log_level=daemon.log_level,
        usage=UsageSettings(file.usage.price_per_gib_hour, file.usage.currency),
        vms={pattern: _vm_fields(table) for pattern, table in file.vm.items()},
        source=source,
    )


def _vm_fields(table: _VmTable) -> dict[str, object]:
    names = {"floor": "floor_bytes"}
    return {
        names.get(spec.name, spec.name): value
        for spec in fields(table)
        if (value := getattr(table, spec.name)) is not None
    }


def _is_root(uid: int | None) -> bool:
    return (os.geteuid() if uid is None else uid) == 0


def runtime_folder(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return the folder of the sockets: systemd's for its unit, else the system's (root) or the user's."""
    if given := _first_folder(environ, "RUNTIME_DIRECTORY"):
        return given
    if _is_root(uid):
        return SYSTEM_RUNTIME
    number = os.geteuid() if uid is None else uid
    base = environ.get("XDG_RUNTIME_DIR", "")
    return Path(base if base.startswith("/") else f"/run/user/{number}") / "giveback-daemon"


def _state_folder(environ: Mapping[str, str], uid: int | None) -> Path:
    if given := _first_folder(environ, "STATE_DIRECTORY"):
        return given
    if _is_root(uid):
        return SYSTEM_STATE
    return _xdg(environ, "XDG_STATE_HOME", ".local/state") / "giveback-daemon"


def _first_folder(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the first folder of a variable; systemd.exec(5) separates several by colons."""
    first = environ.get(name, "").split(":")[0]
    return Path(first) if first.startswith("/") else None


def _xdg(environ: Mapping[str, str], name: str, below_home: str) -> Path:
    """Return an XDG base directory; its specification says to ignore a relative path."""
    given = environ.get(name, "")
    if given.startswith("/"):
        return Path(given)
    return Path(environ.get("HOME") or "~").expanduser() / below_home
