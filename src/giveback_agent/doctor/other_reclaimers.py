"""Find other programs in this guest that reclaim memory.

Two at the same time cost CPU time twice, and one takes the cache that the other keeps. They are searched
for in known places; files that this user may not read are skipped.
"""

from __future__ import annotations

import os

from giveback_agent.wsl import wslconfig
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback_agent.wsl.detect import WslHost

# Words in timers and scripts that return memory of WSL or a VM.
WORDS = (b"drop_caches", b"compact_memory", b"memory.reclaim")
FOLDERS = (
    "/etc/cron.d",
    "/etc/cron.hourly",
    "/etc/cron.daily",
    "/var/spool/cron",
    "/var/spool/cron/crontabs",
    "/etc/systemd/system",
)
FILES = ("/etc/crontab", "/etc/rc.local", "/etc/wsl.conf")
PROGRAMS = frozenset(("senpai", "damo", "mom-vdsm", "momd"))
MODULES = ("damon_reclaim", "damon_lru_sort")
OURS = "giveback"
ENTRIES_LIMIT = 512
FILE_LIMIT_BYTES = 64 << 10
PROCESSES_LIMIT = 32768


def find(root: str, wsl: WslHost | None) -> tuple[str, ...]:
    """Describe every other reclaimer found under `root`, with the evidence. Never raises."""
    found = [*_timers(root), *_modules(root), *_programs(root)]
    if wsl is not None:
        found += _wsl_reclaim(root, wsl)
    return tuple(found)


def _timers(root: str) -> Iterator[str]:
    paths = list(FILES)
    for folder in FOLDERS:
        paths += [f"{folder}/{name}" for name in _listed(root, folder) if OURS not in name]
    for path in paths:
        try:
            data = files.read(root, path, FILE_LIMIT_BYTES)
        except KernelFileError:
            continue
        for line in data.splitlines():
            words = [word for word in WORDS if word in line]
            if words and not line.lstrip().startswith(b"#"):
                yield f"{path} uses {words[0].decode()}"
                break


def _modules(root: str) -> Iterator[str]:
    for name in MODULES:
        path = f"/sys/module/{name}/parameters/enabled"
        try:
            if files.read(root, path, 64).strip() == b"Y":
                yield f"{path} is Y"
        except KernelFileError:
            continue


def _programs(root: str) -> Iterator[str]:
    pids = [name for name in _listed(root, "/proc", PROCESSES_LIMIT) if name.isdigit()]
    for pid in pids:
        try:
            name = files.read(root, f"/proc/{pid}/comm", 64).strip().decode("utf-8", "replace")
        except KernelFileError:
            continue
        if name in PROGRAMS:
            yield f"{name} runs (pid {pid})"


def _wsl_reclaim(root: str, wsl: WslHost) -> Iterator[str]:
    """Yield WSL's own reclaim, which runs unless .wslconfig has `autoMemoryReclaim=disabled`."""
    from giveback_agent.wsl.detect import find_wslconfig

    found = find_wslconfig(root, wsl)
    entries, _ = wslconfig.parse(found.data or b"", found.path or ".wslconfig")
    values = [e.value for e in entries if e.name.lower() == "experimental.automemoryreclaim"]
    mode = wslconfig.parse_enum(values[0], ("Disabled", "DropCache", "Gradual")) if values else None
    if mode == "Disabled":
        return
    evidence = f"{found.path} says {mode}" if mode else "its default is DropCache"
    yield f"WSL's own autoMemoryReclaim ({evidence})"


def _listed(root: str, folder: str, limit: int = ENTRIES_LIMIT) -> list[str]:
    try:
        return sorted(os.listdir(files.under(root, folder)))[:limit]
    except OSError:
        return []
