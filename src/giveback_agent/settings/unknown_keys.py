"""Warnings about keys that the agent does not read: misplaced, misspelt, or unknown.

It is imported only if a file has such a key, so that other services do not hold its tables in memory.
"""

from __future__ import annotations

from giveback_agent.settings.table import TABLE
from giveback_agent.wsl.wslconfig import quoted_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from giveback_agent.wsl.wslconfig import ConfigEntry

# microsoft/WSL src/windows/common/WslCoreConfig.h, `ConfigSetting`, as of summer 2026.
WSL_KEYS = {
    "wsl2": """
        autoProxy crashDumpFolder debugConsole debugConsoleLogFile defaultVhdSize dhcp dhcpTimeout
        distributionStartTimeout dnsProxy dnsTunneling earlyBootLogging firewall gpuSupport
        guiApplications hardwarePerformanceCounters hostFileSystemAccess ipv6 isolateDistroCgroup
        kernel kernelBootTimeout kernelCommandLine kernelDebugPort kernelModules
        loadDefaultKernelModules loadKernelModules localhostForwarding macAddress maxCrashDumpCount
        memory mountDeviceTimeout nestedVirtualization networkingMode processors safeMode swap
        swapFile systemDistro telemetry virtio virtio9p virtiofs vmIdleTimeout vmSwitch
    """,
    "experimental": """
        autoMemoryReclaim autoProxy bestEffortDnsParsing dnsTunneling dnsTunnelingIpAddress
        firewall hostAddressLoopback ignoredPorts initialAutoProxyTimeout networkingMode
        setVersionDebug sparseVhd swiotlb virtioFsAggregateShares
    """,
    "general": "distributionInstallPath instanceIdleTimeout",
}
# Sections of a distribution's own /etc/wsl.conf, which people put into .wslconfig (#10510).
WSL_CONF_SECTIONS = ("automount", "boot", "filesystem", "gpu", "interop", "network", "time", "user")
_NAME_LIMIT_CHARS = 64


def advise(entries: Iterable[ConfigEntry], path: str) -> list[tuple[int, str]]:
    """Return the line and a warning for each entry that is neither giveback's nor WSL's own."""
    ours = [key for setting in TABLE for key in setting.keys]
    theirs = [f"{section}.{key}" for section, keys in WSL_KEYS.items() for key in keys.split()]
    real = {key.lower() for key in theirs}
    return [
        (entry.line, _advice(entry, f" in {path}:{entry.line}", [*ours, *theirs]))
        for entry in entries
        if entry.name.lower() not in real
    ]


def _advice(entry: ConfigEntry, where: str, names: list[str]) -> str:
    unknown = f"Unknown key '{quoted_value(entry.name)}'{where}"
    homes = []
    for name in names:
        section, _, key = name.partition(".")
        if key.lower() == entry.key.lower() and f"[{section}]" not in homes:
            homes.append(f"[{section}]")
    if homes:
        return f"{unknown}: '{quoted_value(entry.key)}' belongs in section {' or '.join(homes)}"
    if entry.section.lower() in WSL_CONF_SECTIONS:
        return f"{unknown}: section [{entry.section}] belongs in the distribution's /etc/wsl.conf"
    guess = nearest(entry.name, names)
    return f"{unknown}: did you mean '{guess}'?" if guess else unknown


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that differs from `name` by a typing error; "" if none does."""
    name = name.lower()
    if len(name) > _NAME_LIMIT_CHARS:
        return ""
    best, guess = max(2, len(name) // 5) + 1, ""
    for candidate in names:
        if abs(len(candidate) - len(name)) < best:
            slips = distance(name, candidate.lower())
            if slips < best:
                best, guess = slips, candidate
    return guess


def distance(one: str, other: str) -> int:
    """Count the edits (insert, delete, replace a character) that turn `one` into `other`."""
    row = list(range(len(other) + 1))
    for i, char in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, against in enumerate(other, 1):
            edits = min(row[j] + 1, row[j - 1] + 1, diagonal + (char != against))
            diagonal, row[j] = row[j], edits
    return row[-1]
