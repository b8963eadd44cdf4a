"""The manager's settings: one TOML file, all of it checked before any of it counts.

docs/daemon-settings.md says what each is for. Sizes, durations and marks carry their units; a key
that is not known is an error, because a typing error in `floor` would otherwise take memory from a
VM that was to keep it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping  # noqa: TC003  # pydantic reads the annotations when it runs
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, TypeAdapter, ValidationError

from giveback.errors import InputError
from giveback.manager.settings import access as access_rules
from giveback.manager.settings import errors, vm_patterns
from giveback.manager.settings.units import Mark, duration_of, loopback_of, mark_of, size_of

FILE_LIMIT_BYTES = 1 << 20
HORIZON_MOST_S = 600.0
SYSTEM_PATH = Path("/etc/giveback/giveback.toml")
SYSTEM_RUNTIME = Path("/run/giveback-daemon")
SYSTEM_STATE = Path("/var/lib/giveback-daemon")

_STRICT = ConfigDict(extra="forbid")
_Size = Annotated[int, BeforeValidator(size_of)]
_Seconds = Annotated[float, BeforeValidator(duration_of)]
_Mark = Annotated[Mark, BeforeValidator(mark_of)]


def _path_of(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("an absolute path, as text")
    return Path(value)


# Below the lower bound a host has no time to react; above the upper one memory would lie idle.
_SHORT = Mark(fraction=0.10, least_bytes=128 << 20, most_bytes=16 << 30)
_CALM = Mark(fraction=0.15, least_bytes=192 << 20, most_bytes=24 << 30)
_Absolute = Annotated[Path, BeforeValidator(_path_of)]


@dataclass(frozen=True, slots=True)
class ArbiterSettings:
    """`[host]` without its cgroup: when the host is short of memory, and when it is well again."""

    short: Mark = _SHORT
    calm: Mark = _CALM
    horizon_s: float = 30.0
    calm_for_s: float = 30.0


@dataclass(frozen=True, slots=True)
class VmSettings:
    """What holds for one VM."""

    floor_bytes: int = 0
    weight: float = 1.0
    balloon: bool = False
    virtio_mem: bool = False
    although_reports: bool = False
    ignore: bool = False

    @property
    def may_fall_back(self) -> bool:
        """Whether a device may take memory from this VM."""
        return (self.balloon or self.virtio_mem) and not self.ignore


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, as they are in effect. `Settings.for_vm(name)` says what holds for one VM."""

    socket: Path
    state: Path
    """The folder of the leases and, unless named elsewhere, of the history."""
    history: Path | None
    """None where no history is to be kept."""
    history_limit_bytes: int = 256 << 20
    arbiter: ArbiterSettings = ArbiterSettings()
    cgroup: str | None = None
    """The control group that stands for the host; None: the host itself."""
    socket_group: str = ""
    metrics_listen: str = ""
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    access: access_rules.Access = field(default_factory=access_rules.Access)
    log_level: str = "info"
    vms: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By pattern, in the order of the file: the fields of VmSettings that it sets."""
    source: str = "defaults"
    """The file, or `defaults`."""

    def for_vm(self, name: str) -> VmSettings:
        """What holds for the VM of this name: each key from the most specific pattern that sets it."""
        found = [pattern for pattern in self.vms if vm_patterns.matches(pattern, name)]
        merged = VmSettings()
        for pattern in sorted(found, key=vm_patterns.specificity):
            merged = replace(merged, **self.vms[pattern])  # type: ignore[arg-type]
        return merged


@dataclass(frozen=True, slots=True)
class _HostTable:
    __pydantic_config__ = _STRICT
    cgroup: _Absolute | None = None
    short: _Mark | None = None
    calm: _Mark | None = None
    horizon: _Seconds | None = None
    calm_for: _Seconds | None = None


@dataclass(frozen=True, slots=True)
class _DaemonTable:
    __pydantic_config__ = _STRICT
    socket: _Absolute | None = None
    socket_group: str = ""
    state: _Absolute | None = None
    metrics_listen: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class _HistoryTable:
    __pydantic_config__ = _STRICT
    keep: StrictBool = True
    path: _Absolute | None = None
    limit: _Size = 256 << 20


@dataclass(frozen=True, slots=True)
class _AccessTable:
    __pydantic_config__ = _STRICT
    write: tuple[str, ...] = ()
    read: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _VmTable:
    __pydantic_config__ = _STRICT
    floor: _Size | None = None
    weight: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False, strict=True)] | None = None
    balloon: StrictBool | None = None
    virtio_mem: StrictBool | None = None
    although_reports: StrictBool | None = None
    ignore: StrictBool | None = None


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = _STRICT
    host: _HostTable = _HostTable()
    daemon: _DaemonTable = _DaemonTable()
    history: _HistoryTable = _HistoryTable()
    access: _AccessTable = _AccessTable()
    vm: dict[str, _VmTable] = field(default_factory=dict)


_ADAPTER = TypeAdapter(_File)


def default_path(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Where the settings are where none is named: of the system for root, else the user's own."""
    if _is_root(uid):
        return SYSTEM_PATH
    return _xdg(environ, "XDG_CONFIG_HOME", ".config") / "giveback" / "giveback.toml"


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    uid: int | None = None,
) -> Settings:
    """Read the settings from `path`, which must exist; with None from the default place, if it does.

    Raises InputError that names the file and lists everything that is wrong in it, by full key.
    """
    chosen = default_path(environ, uid) if path is None else path
    try:
        with chosen.open("rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        if path is None:
            return from_bytes(b"", "defaults", environ=environ, uid=uid)
        raise InputError(f"{chosen}: there is no such settings file") from error
    except OSError as error:
        raise InputError(f"{chosen}: {error.strerror}; these are the settings") from error
    return from_bytes(data, str(chosen), environ=environ, uid=uid)


def from_bytes(
    data: bytes,
    source: str,
    *,
    environ: Mapping[str, str] = os.environ,
    uid: int | None = None,
) -> Settings:
    """The settings in a file's bytes. Raises InputError as `load` does."""
    if len(data) > FILE_LIMIT_BYTES:
        raise InputError(f"{source}: longer than {FILE_LIMIT_BYTES} bytes; are these settings?")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: byte {error.start} is no UTF-8, which TOML is") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{source}: no TOML: {str(error) or 'nested too deeply'}") from error
    try:
        file = _ADAPTER.validate_python(table)
    except ValidationError as error:
        raise errors.refused(source, errors.lines_of(error, _File)) from error
    settings, wrong = _effective(file, source, environ, uid)
    if wrong:
        raise errors.refused(source, wrong)
    return settings


def _effective(
    file: _File, source: str, environ: Mapping[str, str], uid: int | None
) -> tuple[Settings, list[str]]:
    """The settings with the defaults in, and what is wrong between keys that are each well-formed."""
    wrong: list[str] = []
    host, daemon, history = file.host, file.daemon, file.history
    state = daemon.state or _state_folder(environ, uid)
    arbiter = ArbiterSettings()
    given = {
        "short": host.short,
        "calm": host.calm,
        "horizon_s": host.horizon,
        "calm_for_s": host.calm_for,
    }
    arbiter = replace(arbiter, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    wrong += _marks_wrong(arbiter)
    if arbiter.horizon_s > HORIZON_MOST_S:
        wrong.append('host.horizon: at most "10m": 30 s of looks do not tell of later')
    who, who_wrong = _access(file.access)
    wrong += who_wrong
    if history.limit < 8 << 20:
        wrong.append("history.limit: at least 8M")
    wrong += _endpoint_wrong(daemon)
    settings = Settings(
        socket=daemon.socket or _runtime_folder(environ, uid) / "api.sock",
        state=state,
        history=(history.path or state / "history.db") if history.keep else None,
        history_limit_bytes=history.limit,
        arbiter=arbiter,
        cgroup=None if host.cgroup is None else str(host.cgroup),
        socket_group=daemon.socket_group,
        metrics_listen=daemon.metrics_listen,
        writers=file.access.write,
        readers=file.access.read,
        access=who,
        log_level=daemon.log_level,
        vms={pattern: _vm_fields(table) for pattern, table in file.vm.items()},
        source=source,
    )
    return settings, wrong


def _vm_fields(table: _VmTable) -> dict[str, object]:
    names = {"floor": "floor_bytes"}
    return {
        names.get(spec.name, spec.name): value
        for spec in fields(table)
        if (value := getattr(table, spec.name)) is not None
    }


def _marks_wrong(arbiter: ArbiterSettings) -> list[str]:
    """Two percentages or two sizes can be compared here; a mix only on the host that it meets."""
    short, calm = arbiter.short, arbiter.calm
    if short.fraction is not None and calm.fraction is not None:
        too_low = calm.fraction <= short.fraction
    elif short.fraction is None and calm.fraction is None:
        too_low = calm.least_bytes <= short.least_bytes
    else:
        too_low = False
    return [f"host.calm: {calm} must be more than host.short, which is {short}"] if too_low else []


def _endpoint_wrong(daemon: _DaemonTable) -> list[str]:
    """What a start would refuse later."""
    wrong = []
    if daemon.metrics_listen:
        try:
            loopback_of(daemon.metrics_listen)
        except ValueError as error:
            wrong.append(f"daemon.metrics_listen: {error}")
    if daemon.socket_group:
        try:
            access_rules.group_id(daemon.socket_group)
        except InputError as error:
            wrong.append(f"daemon.socket_group: {error}")
    return wrong


def _access(table: _AccessTable) -> tuple[access_rules.Access, list[str]]:
    wrong = []
    for name, words in (("write", table.write), ("read", table.read)):
        for index, word in enumerate(words):
            try:
                access_rules.access([word])
            except InputError as error:
                wrong.append(f"access.{name}[{index}]: {error}")
    return (access_rules.Access() if wrong else access_rules.access(table.write, table.read)), wrong


def _is_root(uid: int | None) -> bool:
    return (os.geteuid() if uid is None else uid) == 0


def _runtime_folder(environ: Mapping[str, str], uid: int | None) -> Path:
    """systemd's own for the unit; else the system's for root, and the user's for others."""
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
    """systemd.exec(5): several folders are separated by colons."""
    first = environ.get(name, "").split(":")[0]
    return Path(first) if first.startswith("/") else None


def _xdg(environ: Mapping[str, str], name: str, below_home: str) -> Path:
    """The XDG base directories: a relative path is to be ignored."""
    given = environ.get(name, "")
    if given.startswith("/"):
        return Path(given)
    return Path(environ.get("HOME") or "~").expanduser() / below_home
