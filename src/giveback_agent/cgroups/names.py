"""The service or container to which a cgroup belongs, by its path. Pure.

The paths are the conventions of systemd and of container engines:

    /system.slice/ssh.service                                   a service
    /machine.slice/libpod-<64 hex digits>.scope/container       podman
    /system.slice/docker-<64 hex digits>.scope, /docker/<...>   docker
    /kubepods.slice/.../cri-containerd-<64 hex digits>.scope    Kubernetes, by containerd or CRI-O
    /lxc.payload.web, /lxc/web                                  LXC and LXD
    /machine.slice/systemd-nspawn@web.service                   systemd-nspawn
    /user.slice/user-1000.slice/user@1000.service/app.slice/x   a user's service

A cgroup's path is untrusted text: each user that may make a cgroup chooses its name.
"""

from __future__ import annotations

from giveback_kernel.record import Record

SERVICE = "service"
CONTAINER = "container"
SLICE = "slice"
CGROUP = "cgroup"
SHORT_ID_CHARS = 12
_ID_CHARS = 64
_HEX = frozenset("0123456789abcdef")
# Prefix of a scope's (or folder's) name -> the engine that uses it.
_ENGINES = {
    "libpod": "podman",
    "libpod-payload": "podman",
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "containerd": "containerd",
    "crio": "cri-o",
}
# Monitors of containers have cgroups of their own.
_MONITORS = ("libpod-conmon-", "crio-conmon-")
_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")


class Unit(Record):
    """The service or container to which a cgroup belongs.

    `path` is the cgroup of the unit itself. `name` is the name of the systemd unit or LXC container; for
    other containers it has the short id. `engine` and `id` are "" unless it is a container with an id.
    """

    path: str
    kind: str
    name: str
    engine: str = ""
    id: str = ""


def unit_of(path: str) -> Unit | None:
    """Return the topmost service or container on `path`; None if it has none, like a slice."""
    parts = [part for part in path.split("/") if part]
    for at, part in enumerate(parts):
        here = "/" + "/".join(parts[: at + 1])
        found = _container(here, part, parts[at - 1] if at else "", parts[:at])
        if found is not None:
            return found
        if part.endswith(_UNITS) and not is_user_manager(part):
            return Unit(here, SERVICE, unit_name(part))
    return None


def is_user_manager(part: str) -> bool:
    """Tell whether a unit holds a user's own services: `user@1000.service`."""
    return part.startswith("user@") and part.endswith(".service")


def folder_name(path: str) -> str:
    """Return a name for a cgroup that is neither service nor container: the end of its path."""
    return unit_name(path.rstrip("/").rpartition("/")[2]) or "the root cgroup"


def unit_name(part: str) -> str:
    """Return a unit's name as systemd shows it, with the long id of a monitor shortened."""
    for prefix in _MONITORS:
        middle = part[len(prefix) :].partition(".")[0]
        if part.startswith(prefix) and _is_id(middle):
            return f"{prefix}{middle[:SHORT_ID_CHARS]}.scope"
    return part


def _container(path: str, part: str, parent: str, above: list[str]) -> Unit | None:
    stem = part[: -len(".scope")] if part.endswith(".scope") else part
    prefix, _, number = stem.rpartition("-")
    if _is_id(number) and prefix in _ENGINES:
        return _with_id(path, _ENGINES[prefix], number)
    if _is_id(stem):
        is_pod = parent.startswith("pod") or any(one.startswith("kubepods") for one in above)
        engine = "docker" if parent == "docker" else "pod" if is_pod else CONTAINER
        return _with_id(path, engine, stem)
    if part.startswith("lxc.payload.") and len(part) > len("lxc.payload."):
        return Unit(path, CONTAINER, f"lxc {part[len('lxc.payload.') :]}")
    if parent == "lxc" and above == ["lxc"]:
        return Unit(path, CONTAINER, f"lxc {part}")
    for prefix, suffix in (("systemd-nspawn@", ".service"), ("machine-", ".scope")):
        name = part[len(prefix) : -len(suffix)]
        if part.startswith(prefix) and part.endswith(suffix) and name:
            return Unit(path, CONTAINER, f"machine {unescaped(name)}")
    return None


def _with_id(path: str, engine: str, number: str) -> Unit:
    return Unit(path, CONTAINER, f"{engine} {number[:SHORT_ID_CHARS]}", engine, number)


def _is_id(text: str) -> bool:
    return len(text) == _ID_CHARS and _HEX.issuperset(text)


def unescaped(name: str) -> str:
    r"""Decode systemd's escapes (`\x2d`) of characters that a unit's name may not have (systemd.unit(5))."""
    head, *rest = name.split("\\x")
    out = [head]
    for part in rest:
        digits = part[:2]
        is_escape = len(digits) == 2 and not digits.strip("0123456789abcdefABCDEF")
        out.append(chr(int(digits, 16)) + part[2:] if is_escape else "\\x" + part)
    return "".join(out)
