"""The names of containers, from the files that container engines keep in the guest.

Only regular files of root are read, up to a limit: containers of other users keep their short id. If a file
is invalid, its containers have no name. Sources: containers/storage (containers.json), moby
daemon/container (config.v2.json), kubelet (/var/log/containers).
"""

from __future__ import annotations

import os
import stat

from giveback_kernel import files

_PODMAN = "overlay-containers"
PODMAN_FILES = (
    f"/var/lib/containers/storage/{_PODMAN}/containers.json",
    f"/var/lib/containers/storage/{_PODMAN}/volatile-containers.json",
    f"/run/containers/storage/{_PODMAN}/volatile-containers.json",
)
DOCKER_FOLDER = "/var/lib/docker/containers"
PODS_FOLDER = "/var/log/containers"
FILE_LIMIT_BYTES = 1 << 20
NAMES_LIMIT = 4096
NAME_LIMIT_CHARS = 64
_ID_CHARS = 64


def names(root: str, ids: frozenset[str]) -> dict[str, str]:
    """Return the known names of the containers `ids` (64 hex digits), by id. Never raises."""
    if not ids:
        return {}
    found = _of_pods(root, ids)
    for path in PODMAN_FILES:
        for one in _entries(_json(root, path)):
            _keep(found, ids, one.get("id"), _first(one.get("names")))
    for number in sorted(ids - found.keys())[:NAMES_LIMIT]:
        config = _json(root, f"{DOCKER_FOLDER}/{number}/config.v2.json")
        if isinstance(config, dict):
            name = config.get("Name")
            _keep(found, ids, number, name.lstrip("/") if isinstance(name, str) else None)
    return found


def _of_pods(root: str, ids: frozenset[str]) -> dict[str, str]:
    """Return the names of Kubernetes containers, from files `<pod>_<namespace>_<container>-<id>.log`."""
    found: dict[str, str] = {}
    try:
        with os.scandir(files.under(root, PODS_FOLDER)) as entries:
            for _, entry in zip(range(NAMES_LIMIT), entries):
                stem, _, number = entry.name[: -len(".log")].rpartition("-")
                pod, _, rest = stem.partition("_")
                container = rest.partition("_")[2]
                if container:
                    _keep(found, ids, number, f"{pod}/{container}")
    except OSError:
        pass
    return found


def _keep(found: dict[str, str], ids: frozenset[str], number: object, name: object) -> None:
    if isinstance(number, str) and number in ids and isinstance(name, str) and name:
        found.setdefault(number, name[:NAME_LIMIT_CHARS])


def _entries(value: object) -> list[dict[str, object]]:
    listed = value[:NAMES_LIMIT] if isinstance(value, list) else []
    return [one for one in listed if isinstance(one, dict)]


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _json(root: str, path: str) -> object:
    """Return a file's JSON; None unless it is a regular file of root or this user within the size limit."""
    import json

    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(files.under(root, path), flags)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        is_trusted = stat.S_ISREG(status.st_mode) and status.st_uid in (0, os.geteuid())
        if not is_trusted or status.st_size > FILE_LIMIT_BYTES:
            return None
        with os.fdopen(os.dup(fd), "rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
        return None if len(data) > FILE_LIMIT_BYTES else json.loads(data)
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(fd)
