"""WSL 2, seen from within: keys of `.wslconfig` that do nothing, or not what was meant.

The agent reads those files and knows WSL's keys; here its warnings become findings of `doctor`.
"""

from __future__ import annotations

from giveback.accounting.diagnosis import Finding, Severity
from giveback_agent.settings import load


def machine_findings(root: str = "/") -> tuple[Finding, ...] | None:
    """What the settings of this WSL 2 machine leave without effect; None where this is no WSL 2.

    May ask Windows for the profile's name, at most for a few seconds. Never raises.
    """
    wsl = load.detect_wsl(root)
    if wsl is None:
        return None
    loaded = load.load(root, (), wsl)
    return tuple(
        Finding(
            Severity.MAY_KEEP,
            "a key of this WSL 2 machine's settings does nothing, or not what was meant",
            warning,
            "giveback-agent config shows what counts; WSL reads its keys after wsl --shutdown only",
        )
        for warning in loaded.warnings
    )
