"""Other systems' ways to return memory, re-implemented from their published rules, to be measured.

Each is a pure rule with thin I/O around it. `strategy NAME [key=value ...]` runs one until SIGTERM
and prints a line per action; the options are its rule's constants. `docs/strategies.md` lists the
differences from the originals. None of their code is used.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_lab_guest.strategies.loop import Stopping

GIVEBACK_WITHOUT = "giveback-without"
NAMES = (
    "wsl-2019",
    "wsl-gen1-dropcache",
    "wsl-gen1-gradual",
    "wsl-gen2-dropcache",
    "wsl-gen2-gradual",
    "kata-compact",
    "kata-memcg",
    "kata-both",
    "senpai",
    "senpai-oomd",
)


def strategy(words: list[str]) -> int:
    """Run the strategy that the first word names; return an exit code, 2 for bad input."""
    name, *options = words or [""]
    if name == "set":
        from giveback_lab_guest.strategies.knobs import set_all

        return set_all("/", options)
    if name not in (*NAMES, GIVEBACK_WITHOUT):
        known = ", ".join([*NAMES, GIVEBACK_WITHOUT, "set"])
        print(f"giveback-lab: no strategy {name!r}: there are {known}", file=sys.stderr)
        return 2
    from giveback_lab_guest.strategies import small

    small.start_anew(["strategy", *words])
    try:
        if name == GIVEBACK_WITHOUT:
            from giveback_lab_guest.strategies.giveback_without import run_without

            return run_without(options)
        return _serve(name, options)
    except ValueError as error:
        print(f"giveback-lab: {name}: {error}", file=sys.stderr)
        return 2


def _serve(name: str, options: list[str]) -> int:
    from giveback_kernel.errors import KernelFileError
    from giveback_lab_guest.strategies.loop import Stopping, say

    try:
        _of(name)("/", name, options, Stopping())
    except KernelFileError as error:
        say(f"stopped: {error}")
        return 1
    return 0


def _of(name: str) -> Callable[[str, str, list[str], Stopping], None]:
    """Import only the strategy that runs: its own memory is measured, too."""
    if name.startswith("wsl-gen2"):
        from giveback_lab_guest.strategies import wsl_gen2

        return wsl_gen2.serve
    if name.startswith("wsl"):
        from giveback_lab_guest.strategies import wsl

        return wsl.serve
    if name.startswith("kata"):
        from giveback_lab_guest.strategies import kata

        return kata.serve
    from giveback_lab_guest.strategies import senpai

    return senpai.serve
