"""Show the effective settings, where each came from, and every warning.

Layers, lowest first: defaults, .wslconfig (under WSL 2), /etc/giveback.conf, --set.
"""

from __future__ import annotations

from giveback_agent.settings import load, table
from giveback_kernel.record import as_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from giveback_agent.settings.load import Loaded
    from giveback_agent.wsl.detect import WslHost

HELP = "show the effective settings, where each came from, and every warning"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the settings. Return 0 even with warnings: the agent would run with these settings."""
    host = load.detect_wsl(args.root)
    loaded = load.load(args.root, args.set or [], host)
    if args.json:
        import json

        print(json.dumps(to_json(loaded, host), indent=2))
    else:
        print(to_text(loaded, host))
    return 0


def to_json(loaded: Loaded, host: WslHost | None) -> dict[str, Any]:
    """Return the settings as a document: sizes in bytes, times in seconds."""
    return {
        "settings": {
            row.keys[0]: {
                "value": getattr(loaded.settings, row.field),
                "source": loaded.sources[row.field],
            }
            for row in table.TABLE
        },
        "files": [{"path": path, "state": state} for path, state in loaded.files],
        "warnings": list(loaded.warnings),
        "wsl2": as_dict(host) if host else None,
    }


def to_text(loaded: Loaded, host: WslHost | None) -> str:
    """Return the settings in columns, then the files that were read, then the warnings."""
    rows = [
        (
            row.keys[0],
            table.format_value(row, getattr(loaded.settings, row.field)),
            loaded.sources[row.field],
        )
        for row in table.TABLE
    ]
    widths = [max(len(r[i]) for r in rows) for i in (0, 1)]
    lines = [f"{key:{widths[0]}}  {value:{widths[1]}}  {source}" for key, value, source in rows]
    lines += ["", f"WSL 2: {host.evidence[0]}" if host else "WSL 2: no"]
    lines += [f"{path}: {state}" for path, state in loaded.files]
    if loaded.warnings:
        lines += ["", "Warnings:", *(f"  {warning}" for warning in loaded.warnings)]
    return "\n".join(lines)
