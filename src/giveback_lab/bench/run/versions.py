"""The versions of all parts of a cell: stored with the result, compared before it is reused."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import platform
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.guest.zipapps import agent_zipapp
from giveback_kernel import __version__
from giveback_lab.bench import strategies
from giveback_lab.packages.cache import content_key

if TYPE_CHECKING:
    from giveback_lab.bench.run.cell import CellSetting
    from giveback_lab.bench.strategy import Strategy
    from giveback_lab.bench.works import Work

# The cost of answering the host is part of a guest's figures.
GUEST_WORKS = ("bench.py", "serve.py")
GUEST_WORKS_FOLDER = "works"


def versions(work: Work, strategy: Strategy, setting: CellSetting) -> dict[str, str]:
    """Return all versions; those that decide whether two results compare are in plan.DECISIVE."""
    return {
        "giveback": __version__,
        "agent": _agent(),
        "work": content_key(work.version, *_guest_sources()),
        "strategy": content_key(
            strategy.title, strategy.source, strategy.version, _strategy_source(strategy)
        ),
        "kernel": setting.lab.kernel.release,
        "qemu": setting.lab.emulator.version,
        "accel": setting.accel,
        "cpus": str(setting.cpus),
        "seed": str(setting.seed),
        "python": platform.python_version(),
        "host_kernel": platform.release(),
        "host_cpus": str(os.cpu_count() or 0),
    }


@functools.cache
def _agent() -> str:
    return content_key(agent_zipapp())


@functools.cache
def _guest_sources() -> tuple[bytes, ...]:
    folder = resources.files("giveback_lab_guest")
    works = (folder / GUEST_WORKS_FOLDER).iterdir()
    named = sorted((item.name, item) for item in works if item.name.endswith(".py"))
    shared = ((folder / name).read_bytes() for name in GUEST_WORKS)
    return (*shared, *(item.read_bytes() for _, item in named))


def _strategy_source(strategy: Strategy) -> bytes:
    """Return the text of the module that defines the strategy; empty for one defined by a test."""
    for info in pkgutil.iter_modules(strategies.__path__):
        module = importlib.import_module(f"{strategies.__name__}.{info.name}")
        for value in vars(module).values():
            inside = value if isinstance(value, tuple) else (value,)
            if any(one is strategy for one in inside) and module.__file__:
                return Path(module.__file__).read_bytes()
    return b""
