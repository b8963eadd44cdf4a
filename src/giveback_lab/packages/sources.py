"""Where packages come from: the host's own apt sources, and further suites of Debian beside them.

Another suite is fetched from the mirror that the host's apt already uses. A host that does not run
Debian fetches it from the mirror named in GIVEBACK_DEBIAN_MIRROR. apt checks the signatures with
the keys from the distribution's own package of Debian's keyring.
"""

from __future__ import annotations

import functools
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.packages.apt_run import run_apt
from giveback_lab.packages.container_host import container_command

if TYPE_CHECKING:
    from pathlib import Path

MIRROR_VARIABLE, ARCHIVE_VARIABLE = "GIVEBACK_DEBIAN_MIRROR", "GIVEBACK_DEBIAN_ARCHIVE"
UNSET_MIRROR = "http://debian-mirror.invalid/debian"
UNSET_ARCHIVE = "http://debian-archive.invalid/debian"
DEBIAN_MIRROR = os.environ.get(MIRROR_VARIABLE, UNSET_MIRROR)
# Releases move there some time after the end of their support; their lists are past their date.
DEBIAN_ARCHIVE = os.environ.get(ARCHIVE_VARIABLE, UNSET_ARCHIVE)
# The suites in which the lab searches for a kernel, oldest first.
DEBIAN_SUITES = (
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "sid",
)


@dataclass(frozen=True, slots=True)
class AptSource:
    """One line of apt's sources: where the host's apt finds its distribution."""

    uri: str
    suite: str
    components: str
    signed_by: str
    origin: str = "Debian"
    dated: bool = True

    def line(self, suite: str | None = None, kind: str = "deb") -> str:
        """Return the one-line form, for another suite of the same mirror if given.

        `kind` is deb or deb-src.
        """
        options = [
            *([f"signed-by={self.signed_by}"] if self.signed_by else []),
            *([] if self.dated else ["check-valid-until=no"]),
        ]
        option = f"[{' '.join(options)}] " if options else ""
        return f"{kind} {option}{self.uri} {suite or self.suite} {self.components}"


@functools.cache
def host_sources() -> tuple[AptSource, ...]:
    """Return the host distribution's own package sources, as its apt states them.

    Raises InputError if apt-get is missing or knows no source.
    """
    if shutil.which("apt-get") is None:
        raise InputError(
            "apt-get: not found: the lab builds its guests from Debian's or Ubuntu's packages; "
            f"here, run it in a container: {container_command()}"
        )
    fields = ("CREATED_BY", "REPO_URI", "RELEASE", "CODENAME", "COMPONENT", "SIGNED_BY", "ORIGIN")
    template = "|".join(f"$({field})" for field in fields)
    listing = run_apt(["indextargets", "--format", template]).splitlines()
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for row in listing:
        columns = ["" if c.startswith("$(") else c for c in row.split("|")]
        if len(columns) != len(fields):
            continue
        made_by, uri, release, codename, component, signed_by, origin = columns
        if made_by == "Packages" and origin in ("Debian", "Ubuntu"):
            # "stable" in the user's sources is another name of a codename on every mirror.
            key = (uri, codename or release, signed_by, origin)
            found.setdefault(key, [])
            if component not in found[key]:
                found[key].append(component)
    if not found:
        raise InputError("apt knows no Debian or Ubuntu source: run `sudo apt-get update` once")
    return tuple(AptSource(u, s, " ".join(c), k, o) for (u, s, k, o), c in sorted(found.items()))


def release_source() -> AptSource:
    """Return the host's release itself, without its updates and backports. Raises InputError."""
    sources = host_sources()
    return next((s for s in sources if "-" not in s.suite), sources[0])


def is_debian() -> bool:
    """Return whether this host's packages are Debian's. Raises InputError."""
    return release_source().origin == "Debian"


def unset(source: AptSource) -> str | None:
    """Return which variable to set if this source has no address yet, or None if it has one."""
    variable = {UNSET_MIRROR: MIRROR_VARIABLE, UNSET_ARCHIVE: ARCHIVE_VARIABLE}.get(source.uri)
    if variable is None:
        return None
    kind = "a mirror" if variable == MIRROR_VARIABLE else "an archive of old releases"
    return (
        f"no address of {kind} of Debian is known here: set {variable} to one, "
        "such as http://HOST/debian (the folder that has dists/)"
    )


def suite_sources(suite: str, keyring: Path | None) -> tuple[AptSource, ...]:
    """Return the places where a suite may be, the likeliest first.

    `keyring` has Debian's keys, on a host that does not run Debian. Without it only the host's own
    mirror is returned.
    """
    own = release_source()
    mirror = AptSource(own.uri, suite, own.components, own.signed_by, own.origin)
    if own.origin != "Debian":
        if keyring is None or suite not in DEBIAN_SUITES:
            return (mirror,)
        mirror = AptSource(DEBIAN_MIRROR, suite, "main", str(keyring), "Debian")
    archive = AptSource(DEBIAN_ARCHIVE, suite, "main", mirror.signed_by, dated=False)
    return (mirror, archive)
