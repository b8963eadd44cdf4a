"""Parse QEMU's command line and its -readconfig files into options. Pure.

An option is a whole name after one dash or two; names cannot be abbreviated. Source: lookup_opt(),
qemu_set_option() and
qemu_global_option() in system/vl.c, get_opt_name_value() in util/qemu-option.c, qemu_config_foreach() in
util/qemu-config.c, qemu_chr_parse_compat() in chardev/char.c, qapi_bool_parse() in qapi/qapi-util.c.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Options = dict[str, str]
CONFIG_LIMIT_BYTES = 1 << 20
"""The longest -readconfig file that is read; those of Incus are below 20 KiB."""
_CONFIGS_LIMIT = 16
"""Limit of the files that are read for one command line, each of up to CONFIG_LIMIT_BYTES."""
_SECTIONS_LIMIT = 4096
_PATH_LIMIT = 4096
"""PATH_MAX: no file has a longer path; a socket's path is much shorter."""
_JSON_DEPTH_LIMIT = 8
_JSON_NAME_LIMIT = 256
"""No option has a longer dotted name; each name inside a nested object repeats its prefix."""

# Options without a value; every other option takes the next word, whatever it is.
_FLAGS = frozenset(
    {
        "h", "help", "version", "snapshot", "no-fd-bootchk", "no-acpi", "no-hpet", "nodefaults",
        "S", "s", "no-reboot", "no-shutdown", "daemonize", "enable-kvm", "no-kvm",
        "no-kvm-irqchip", "no-kvm-pit", "no-kvm-pit-reinjection", "mem-prealloc", "usb",
        "nographic", "portrait", "full-screen", "no-frame", "alt-grab", "ctrl-grab", "no-quit",
        "sdl", "curses", "win2k-hack", "rtc-td-hack", "localtime", "singlestep",
        "one-insn-per-tb", "preconfig", "xen-attach", "xen-domid-restrict", "no-user-config",
        "nouserconfig", "nodefconfig", "only-migratable", "semihosting", "old-param",
        "enable-fips", "async-teardown", "enable-sync-profile", "perfmap", "jitdump",
        "show-cursor", "audio-help", "tdf", "xen-create",
    }
)  # fmt: skip
# Option -> its group, and the name that the group's first property has if it is given without a name.
_GROUPS = {
    "m": ("memory", "size"), "machine": ("machine", "type"), "M": ("machine", "type"),
    "name": ("name", "guest"), "object": ("object", "qom-type"), "device": ("device", "driver"),
    "chardev": ("chardev", "backend"), "mon": ("mon", "chardev"), "numa": ("numa", "type"),
    "netdev": ("netdev", "type"), "overcommit": ("overcommit", ""), "accel": ("accel", "accel"),
    "realtime": ("realtime", ""), "mem-path": ("mem-path", ""), "xen-domid": ("xen-domid", ""),
}  # fmt: skip
_INHERITED = frozenset(
    {
        "free-page-reporting", "deflate-on-oom", "guest-cid", "requested-size", "memdev", "name",
        "chardev",
    }
)  # fmt: skip
"""The device properties that -global can set and that are read here; each device gets its own copy."""
_SECTION = re.compile(r'\[([^\s"\]]+)(?:\s+"([^"]*)")?\]')
_SETTING = re.compile(r'\s*(\S+)\s*=\s*"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Arguments:
    """The relevant options in order, each as (group, properties).

    `unread` names the parts of the configuration that could not be read, and may have more options.
    """

    options: tuple[tuple[str, Options], ...]
    unread: tuple[str, ...] = ()

    def all(self, group: str) -> Iterator[Options]:
        """Return the properties of each option of this group, in order."""
        return (properties for name, properties in self.options if name == group)

    def merged(self, group: str) -> Options:
        """Merge all uses of an option, as QEMU does for -machine and -m: the last value wins."""
        result: Options = {}
        for properties in self.all(group):
            result.update(properties)
        return result

    def by_id(self, group: str) -> dict[str, Options]:
        """Return the options of this group by their `id`."""
        return {properties.get("id", ""): properties for properties in self.all(group)}


class _Given(list[tuple[str, Options]]):
    """Options in order, with an index by group and id, because -set may occur as often as they."""

    def __init__(self) -> None:
        super().__init__()
        self._by_id: dict[tuple[str, str | None], Options] = {}

    def add(self, options: Iterable[tuple[str, Options]]) -> None:
        for group, settings in options:
            self.append((group, settings))
            self._by_id.setdefault((group, settings.get("id")), settings)

    def change(self, text: str) -> None:
        """Apply `-set group.id.name=value` to an option that was given before; ids are unique."""
        match = re.match(r"([^.]{1,63})\.([^.]{1,63})\.([^=]{1,63})=", text)
        settings = self._by_id.get((match[1], match[2])) if match else None
        if match and settings is not None:
            settings[match[3]] = text[match.end() :]


def parse(
    words: tuple[str, ...], read_config: Callable[[str], str | None] = lambda _: None
) -> Arguments:
    """Parse a command line without its argv[0]. Options that do not concern memory are ignored.

    `read_config` returns a -readconfig file's text, or None if it cannot be read.
    """
    found = _Given()
    unread: dict[str, None] = {}
    configs = 0
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            continue
        option = word[2:] if word.startswith("--") else word[1:]
        if option in _FLAGS:
            found.add([(option, {})])
            continue
        value = next(left, "")
        if option == "readconfig":
            configs += 1
            sections = config_sections(read_config(value)) if configs <= _CONFIGS_LIMIT else None
            if sections is None and len(unread) < _CONFIGS_LIMIT:
                unread[f"-readconfig {value[:_PATH_LIMIT]} cannot be read"] = None
            found.add(sections or [])
        elif option == "set":
            found.change(value)
        else:
            found.add(_options(option, value, len(found)))
    return Arguments(tuple(_with_globals(found)), tuple(unread))


def _options(option: str, value: str, number: int) -> Iterable[tuple[str, Options]]:
    """Return the options that one option with its value stands for; none if it does not concern memory."""
    if option == "global":
        return [("global", global_of(value))]
    if option in ("qmp", "qmp-pretty"):
        return _monitor(value, number)
    if option == "balloon" and value.startswith("virtio"):
        return [("device", {**properties(value, ""), "driver": "virtio-balloon"})]
    if option in ("mem-path", "xen-domid"):
        return [(option, {"value": value})]
    if option in _GROUPS:
        group, implied = _GROUPS[option]
        return [(group, properties(value, implied))]
    return []


def properties(text: str, implied: str) -> Options:
    """Parse `size=2G,slots=4` or QEMU's JSON form into a dict; nested JSON objects get dotted names.

    A first part without `=` is the value of `implied`. If `implied` is empty, and for later parts, `name`
    means on and `noname` means off. If a name is repeated, its last value counts.
    """
    if text.startswith("{"):
        return _from_json(text)
    result: Options = {}
    for index, part in enumerate(_split(text)):
        key, equals, value = part.partition("=")
        if equals:
            result[key] = value
        elif index == 0 and implied:
            result[implied] = part
        elif part:
            result[part.removeprefix("no")] = "off" if part.startswith("no") else "on"
    return result


def _split(text: str) -> Iterator[str]:
    """Split at commas; a doubled comma stands for a literal one."""
    return (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))


def _from_json(text: str) -> Options:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return dict(_flat(value, "", _JSON_DEPTH_LIMIT)) if isinstance(value, dict) else {}


def _flat(value: dict[str, object], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if len(prefix) + len(key) > _JSON_NAME_LIMIT:
            continue
        if isinstance(inner, dict) and depth:
            yield from _flat(inner, f"{prefix}{key}.", depth - 1)
        else:
            yield prefix + key, _plain(inner)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else json.dumps(value)


def is_on(value: str) -> bool:
    """Tell whether the value is one of QEMU's spellings of true."""
    return value in ("on", "yes", "true", "y")


def config_sections(text: str | None) -> list[tuple[str, Options]] | None:
    """Parse a -readconfig file into its sections in order, each with its id as `id`; None if malformed.

    A file that QEMU would refuse is refused: QEMU cannot have been started with it, so the file has
    changed since.
    """
    if text is None or len(text) > CONFIG_LIMIT_BYTES:
        return None
    found: list[tuple[str, Options]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        section = _SECTION.match(line)
        if section:
            if len(found) == _SECTIONS_LIMIT:
                return None
            found.append((section[1], {} if section[2] is None else {"id": section[2]}))
            continue
        setting = _SETTING.match(line)
        if setting is None or not found:
            return None
        found[-1][1][setting[1]] = setting[2]
    return found


def global_of(text: str) -> Options:
    """Parse -global: `driver.property=value`, or the long form with these three names."""
    short = re.match(r"([^.=]{1,63})\.([^=]{1,63})=", text)
    if short:
        value = text[short.end() :]
        return {"driver": short[1], "property": short[2], "value": value}
    return properties(text, "")


def _monitor(text: str, number: int) -> list[tuple[str, Options]]:
    """Return the -chardev and -mon that -qmp stands for."""
    if text.startswith("chardev:"):
        return [("mon", {"chardev": text.removeprefix("chardev:"), "mode": "control"})]
    label = f"compat_monitor-{number}"
    chardev = {**compat_chardev(text), "id": label}
    return [("chardev", chardev), ("mon", {"chardev": label, "mode": "control"})]


def compat_chardev(text: str) -> Options:
    """Parse a character device's old form, such as `unix:/run/q,server=on`, into options of -chardev."""
    kind, _, rest = text.removeprefix("mon:").partition(":")
    if kind == "unix":
        return {"backend": "socket", **properties(rest, "path")}
    tcp = re.match(r"(\[[^\],]{1,64}\]|[^:,]{0,64}):([^,]{1,32})(?:,|$)", rest)
    if kind == "tcp" and tcp:
        more = properties(rest[tcp.end() :], "")
        return {"backend": "socket", "host": tcp[1].strip("[]"), "port": tcp[2], **more}
    # stdio, pty, vc, telnet:, file:, …: none of them is a socket with plain QMP.
    return {"backend": kind}


def listening_address(chardev: Options) -> str:
    """Return the address at which this character device listens: a path, `@name` (abstract), `host:port`.

    A path is unchanged, or gets `./` in front if it could be mistaken for another form. The result is ''
    if it does not listen, uses TLS, or is a descriptor that QEMU inherited.
    """
    get = _first(chardev)
    backend = get("backend", "backend.type")
    listens = is_on(get("server", "backend.data.server"))
    tls = get("tls-creds", "backend.data.tls-creds")
    if backend != "socket" or not listens or tls:
        return ""
    path = get("path", "addr.path", "addr.data.path", "backend.data.addr.data.path")
    if len(path) > _PATH_LIMIT:
        return ""
    if path and is_on(get("abstract", "addr.abstract", "backend.data.addr.data.abstract")):
        return f"@{path}"
    if path:
        return path if "/" in path or not (":" in path or path[0] == "@") else f"./{path}"
    port = get("port", "addr.port", "addr.data.port", "backend.data.addr.data.port")
    host = get("host", "addr.host", "addr.data.host", "backend.data.addr.data.host")
    return f"{host}:{port}" if port else ""


def _first(options: Options) -> Callable[..., str]:
    return lambda *names: next((options[name] for name in names if options.get(name)), "")


def is_handed_over(chardev: Options) -> bool:
    """Tell whether it is a socket that QEMU inherited from its parent."""
    return chardev.get("backend") == "socket" and "fd" in chardev


def _with_globals(found: list[tuple[str, Options]]) -> Iterator[tuple[str, Options]]:
    """Apply -global to every -device of its type: a device's own properties win, then the last -global."""
    defaults: dict[str, Options] = {}
    for group, settings in found:
        if group == "global" and settings.get("property") in _INHERITED:
            of_driver = defaults.setdefault(settings.get("driver", ""), {})
            of_driver[settings.get("property", "")] = settings.get("value", "")
    for group, settings in found:
        if group == "device" and defaults:
            inherited: Options = {}
            for name in _types(settings.get("driver", "")):
                inherited |= defaults.get(name, {})
            yield group, {**inherited, **settings}
        elif group != "global":
            yield group, settings


def _types(driver: str) -> tuple[str, ...]:
    """Return the QOM types whose defaults apply to a device, the weakest first.

    A virtio device on a bus contains the transport-independent device, and forwards its properties. Names
    without a bus are aliases (qdev_alias_table in system/qdev-monitor.c).
    """
    match = re.fullmatch(
        r"((?:virtio|vhost)-[\w-]+?)(?:-(pci|ccw|device)(?:-(?:non-)?transitional)?)?", driver
    )
    if match is None:
        return (driver,)
    base, bus = match[1], match[2]
    if bus is None:
        return (f"{base}-device", f"{base}-pci-base", f"{base}-ccw", f"{base}-pci", driver)
    return (f"{base}-device", f"{base}-{bus}-base", driver)
