"""Incus: its VMs have a balloon without reporting; `raw.qemu.conf` adds the property to that device.

The key is merged into the section of the same name in the file that QEMU reads. A section without keys
removes the device. Incus changes this only while a VM is stopped. Never run here against the real program.
Source: lxc/incus, internal/server/instance/drivers/driver_qemu_config_override.go, driver_qemu_templates.go;
linuxcontainers.org/incus/docs: instance options, "Override QEMU configuration".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from giveback.errors import InputError, VmError
from giveback.vmm.control.managed import Change, output, parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.host.procs import Process

KEY = "raw.qemu.conf"
_FILE = re.compile(r"/(?:run|var/log)/incus/([A-Za-z0-9._-]{1,200})/qemu\.conf")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,62}")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
_HEADER = re.compile(r'\s*\[\s*device\s+"qemu_balloon"\s*\](?:\s*\[0\])?\s*')
_ANY_HEADER = re.compile(r"\s*\[.*")
_SETTING = re.compile(r'\s*free-page-reporting\s*=\s*"?(\w*)"?\s*')
_SECTION, _LINE = '[device "qemu_balloon"]', 'free-page-reporting = "on"'


def instance_of(process: Process) -> str:
    """Return NAME or PROJECT/NAME on the command line of Incus' QEMU process; '' for others. Pure."""
    options = dict(zip(process.argv, process.argv[1:], strict=False))
    found = _FILE.fullmatch(options.get("-readconfig", ""))
    # A project's name has no underscore.
    return found[1].replace("_", "/", 1) if found else ""


def is_run_by(instance: str, pid: int) -> bool:
    """Ask Incus whether this process runs the instance. Raises VmError."""
    project, name = _parts(instance)
    path = f"/1.0/instances/{name}/state?project={project}"
    return parse_object(output(("incus", "query", path)), "incus query").get("pid") == pid


def read(instance: str) -> dict[str, object]:
    """Return Incus' description of NAME or PROJECT/NAME. Raises VmError, InputError."""
    project, name = _parts(instance)
    path = f"/1.0/instances/{name}?project={project}"
    return parse_object(output(("incus", "query", path)), "incus query")


def change(instance: str, described: Mapping[str, object], *, reporting: bool) -> Change:
    """Return how reporting is turned on, or off again. Raises InputError, VmError. Pure."""
    project, name = _parts(instance)
    own, expanded = described.get("config"), described.get("expanded_config")
    if not isinstance(own, dict) or not isinstance(expanded, dict):
        raise VmError(f"incus query: its answer about {name} has no configuration")
    if described.get("type") != "virtual-machine":
        raise InputError(f"{name}: Incus runs it as a container, which has no memory of its own")
    if KEY not in own and KEY in expanded:
        raise InputError(
            f"{name}: a profile sets its {KEY}: add the lines there (incus profile edit)"
        )
    before = str(own.get(KEY, ""))
    after = changed_conf(before, reporting=reporting)
    title = f"Incus' VM {instance}"
    if after == before:
        return Change(title)
    where = ("--project", project, name, KEY)
    verb = ("set",) if after.strip() else ("unset",)
    running = described.get("status") == "Running"
    again = f"giveback enable {instance} --manager incus --yes{'' if reporting else ' --undo'}"
    return Change(
        title,
        before=before,
        after=after,
        command=("incus", "config", *verb, *where, *(("-",) if after.strip() else ())),
        stdin=after,
        then=f"its next start uses it: incus start --project {project} {name}",
        refusal=f"Incus changes {KEY} only while a VM is stopped: incus stop --project {project} {name}, "
        f"then {again}"
        if running
        else "",
    )


def changed_conf(text: str, *, reporting: bool) -> str:
    """Return raw.qemu.conf with the balloon's property set, or without it; all else stays. Pure.

    Raises InputError if the text removes the balloon.
    """
    lines = text.split("\n")
    at = next((i for i, line in enumerate(lines) if _HEADER.fullmatch(line)), None)
    if at is None:
        if not reporting:
            return text
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{_SECTION}\n{_LINE}\n"
    end = next(
        (i for i in range(at + 1, len(lines)) if _ANY_HEADER.fullmatch(lines[i])), len(lines)
    )
    body = lines[at + 1 : end]
    if not any("=" in line for line in body):
        raise InputError(
            f"{KEY} removes the balloon ({_SECTION} without keys): remove that section first"
        )
    values = [found[1] for line in body if (found := _SETTING.fullmatch(line))]
    others = [line for line in body if not _SETTING.fullmatch(line)]
    if reporting:
        if values == ["on"]:
            return text
        body = [_LINE, *others]
    elif not values:
        return text
    else:
        body = others
    # A section that is left without keys would remove the device.
    head = [lines[at]] if any("=" in line for line in body) else []
    if not head:
        body = [line for line in body if line.strip()]
    return "\n".join([*lines[:at], *head, *body, *(lines[end:] or [""] * (not head))])


def _parts(instance: str) -> tuple[str, str]:
    """Return project and name. Raises InputError."""
    project, slash, name = instance.rpartition("/")
    project = project if slash else "default"
    if not _NAME.fullmatch(name) or not _PROJECT.fullmatch(project):
        raise InputError(
            f"{instance!r} is not Incus' NAME or PROJECT/NAME (`incus list --all-projects`)"
        )
    return project, name
