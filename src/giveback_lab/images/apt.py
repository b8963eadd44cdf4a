"""Distribution packages without root: a private apt state in the user's cache folder.

The host's own apt settings (mirrors, proxies, keyrings) are used as they are; only the state, the
cache and the list of suites are ours, so nothing of the user's system changes. apt checks
signatures as always.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.images.cache import building, cache_root, content_key, locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

LISTS_MAX_AGE_S = 86_400
APT_TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Source:
    """One line of apt's sources: where the host's own apt finds its distribution."""

    uri: str
    suite: str
    components: str
    signed_by: str

    def line(self, suite: str | None = None, kind: str = "deb") -> str:
        """The one-line form, for another suite of the same mirror if given; `kind` deb or deb-src."""
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"{kind} {option}{self.uri} {suite or self.suite} {self.components}"


@functools.cache
def host_sources() -> tuple[Source, ...]:
    """The host distribution's own package sources, as its apt states them.

    Raises InputError where apt-get is missing or knows no source.
    """
    if shutil.which("apt-get") is None:
        raise InputError(
            "apt-get: not found: the lab builds its guests from Debian's or Ubuntu's packages"
        )
    fields = ("CREATED_BY", "REPO_URI", "RELEASE", "CODENAME", "COMPONENT", "SIGNED_BY", "ORIGIN")
    template = "|".join(f"$({field})" for field in fields)
    listing = _run_apt(["indextargets", "--format", template], private=None).splitlines()
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in listing:
        columns = ["" if c.startswith("$(") else c for c in row.split("|")]
        if len(columns) != len(fields):
            continue
        made_by, uri, release, codename, component, signed_by, origin = columns
        if made_by == "Packages" and origin in ("Debian", "Ubuntu"):
            # "stable" in the user's sources is a codename's other name on every mirror.
            key = (uri, codename or release, signed_by)
            found.setdefault(key, [])
            if component not in found[key]:
                found[key].append(component)
    if not found:
        raise InputError("apt knows no Debian or Ubuntu source: run `sudo apt-get update` once")
    return tuple(Source(u, s, " ".join(c), k) for (u, s, k), c in sorted(found.items()))


def _run_apt(
    words: Sequence[str], private: Path | None, tool: str = "apt-get", cwd: Path | None = None
) -> str:
    options = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]
    if private is not None:
        options += [
            "-o", f"Dir::State={private}/state",
            "-o", f"Dir::State::status={private}/state/status",
            "-o", f"Dir::Cache={private}/cache",
            "-o", f"Dir::Etc::sourcelist={private}/sources.list",
            "-o", "Dir::Etc::sourceparts=/dev/null",
            "-o", "Dir::Etc::preferences=/dev/null",
            "-o", "Dir::Etc::preferencesparts=/dev/null",
            "-o", "Dir::Log=/dev/null",
            "-o", "DPkg::Post-Invoke::=",
            "-o", "APT::Update::Post-Invoke::=",
            "-o", "APT::Update::Post-Invoke-Success::=",
            "-o", "Debug::NoLocking=1",
        ]  # fmt: skip
    try:
        done = subprocess.run(
            [tool, *options, *words], capture_output=True, text=True, check=False,
            timeout=APT_TIMEOUT_S, env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "teletype"},
            stdin=subprocess.DEVNULL, cwd=cwd,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"apt-get {words[0]}: no end after {APT_TIMEOUT_S} s: is there network?"
        ) from error
    if done.returncode != 0:
        reason = [r for r in done.stderr.splitlines() if r.startswith("E:")] or ["E: failed"]
        raise InputError(f"apt-get {' '.join(words[:4])}: {reason[0][2:].strip()}")
    return done.stdout


class Apt:
    """apt with a state of its own: it sees the host's suites and more, and no installed package."""

    def __init__(
        self,
        extra_suites: Iterable[str] = (),
        root: Path | None = None,
        source_packages: bool = False,
    ) -> None:
        """`extra_suites` (such as "bookworm-backports") are added to the host's own suites.

        `source_packages` adds those of the release itself, for `source_archive`.
        """
        sources = host_sources()
        main = [s for s in sources if "-" not in s.suite] or list(sources)
        lines = [s.line() for s in sources]
        lines += [
            main[0].line(suite) for suite in extra_suites if suite not in {s.suite for s in sources}
        ]
        if source_packages:
            lines.append(main[0].line(kind="deb-src"))
        self._sources_text = "\n".join(lines) + "\n"
        self.folder = (root or cache_root()) / "apt" / content_key(self._sources_text)
        self.release = main[0].suite

    def refresh(self) -> None:
        """Fetch the package lists unless they are less than a day old. Raises InputError."""
        stamp = self.folder / "state" / "refreshed"
        with locked(self.folder):
            for sub in ("state/lists/partial", "cache/archives/partial"):
                (self.folder / sub).mkdir(parents=True, exist_ok=True)
            (self.folder / "state" / "status").touch()
            (self.folder / "sources.list").write_text(self._sources_text)
            if stamp.exists() and _age_s(stamp) < LISTS_MAX_AGE_S:
                return
            try:
                _run_apt(["update"], self.folder)
            except InputError:
                # Without network, yesterday's lists name what yesterday's downloads are.
                if not stamp.exists():
                    raise
                return
            stamp.touch()

    def closure(self, names: Sequence[str], suite: str | None = None) -> tuple[str, ...]:
        """File names of the packages that `names` and all they depend on come down to.

        Raises InputError where a package is unknown.
        """
        words = ["-s", "-qq", *(["-t", suite] if suite else []), "install"]
        plan = _run_apt([*words, "--no-install-recommends", *names], self.folder)
        return tuple(_archive_name(row) for row in plan.splitlines() if row.startswith("Inst "))

    def dependency(self, package: str, prefix: str, suite: str | None = None) -> str:
        """The package named `prefix…` that a meta-package depends on. Raises InputError."""
        words = ["show", "--no-all-versions", f"{package}/{suite}" if suite else package]
        for row in _run_apt(words, self.folder, tool="apt-cache").splitlines():
            if row.startswith("Depends:"):
                for item in row.removeprefix("Depends:").split(","):
                    name = item.split()[0]
                    if name.startswith(prefix):
                        return name
        raise InputError(f"{package}: depends on no package named {prefix}…")

    def download(
        self, names: Sequence[str], suite: str | None = None, deps: bool = True
    ) -> list[Path]:
        """Fetch packages (with all they depend on) and return the .deb files. Raises InputError."""
        archives = self.folder / "cache" / "archives"
        with locked(self.folder / "cache"):
            if deps:
                wanted = self.closure(names, suite)
                words = ["-y", "-d", "-qq", "install", "--no-install-recommends"]
                _run_apt([*words, *(["-t", suite] if suite else []), *names], self.folder)
                return [archives / f for f in wanted]
            wanted = tuple(self._archive_of(name, suite) for name in names)
            for name, file in zip(names, wanted, strict=True):
                if not (archives / file).exists():
                    target = f"{name}/{suite}" if suite else name
                    _run_apt(["-qq", "download", target], self.folder, cwd=archives)
            return [archives / file for file in wanted]

    def source_archive(self, name: str) -> Path:
        """Fetch a source package's upstream archive (`.orig.tar.*`). Raises InputError."""
        archives = self.folder / "cache" / "archives"
        words = ["-qq", "source", "--download-only", "--only-source", name]
        # Not from within `archives`: apt does not name what is there already.
        for row in _run_apt(["--print-uris", *words], self.folder, cwd=self.folder).splitlines():
            # 'URI' FILE SIZE HASH
            file = row.rpartition("' ")[2].split(" ")[0]
            if ".orig.tar." in file and not file.endswith(".asc"):
                with locked(self.folder / "cache"):
                    if not (archives / file).exists():
                        _run_apt(words, self.folder, cwd=archives)
                return archives / file
        raise InputError(f"{name}: a source package without an upstream archive")

    def _archive_of(self, name: str, suite: str | None) -> str:
        words = ["show", "--no-all-versions", f"{name}/{suite}" if suite else name]
        listing = _run_apt(words, self.folder, tool="apt-cache").splitlines()
        fields = dict(row.split(": ", 1) for row in listing if ": " in row)
        return f"{name}_{fields['Version'].replace(':', '%3a')}_{fields['Architecture']}.deb"


PLAN_ROW = re.compile(r"^Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+) .*\[(?P<arch>\w+)\]\)")


def _archive_name(plan_row: str) -> str:
    row = PLAN_ROW.match(plan_row)
    if row is None:
        raise InputError(
            f"apt-get -s install: answered {plan_row[:120]!r}, which is not understood"
        )
    return f"{row['name']}_{row['version'].replace(':', '%3a')}_{row['arch']}.deb"


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def unpack(debs: Sequence[Path], into: Path) -> None:
    """Extract packages' files into a folder with a merged /usr, no maintainer script run."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (into / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (into / name).exists():
            (into / name).symlink_to(f"usr/{name}")
    # Two packages never share a file, so that their order does not matter; tar wants some CPU.
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda deb: _unpack_one(deb, into), debs))


def _unpack_one(deb: Path, into: Path) -> None:
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as reader:
        done = subprocess.run(
            ["tar", "-xC", str(into), "--keep-directory-symlink", "--no-same-owner", "-f", "-"],
            stdin=reader.stdout, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if reader.returncode != 0 or done.returncode != 0:
        raise InputError(
            f"{deb}: cannot be unpacked: {done.stderr.strip()[:200] or 'broken package'}"
        )


def tree(apt: Apt, names: Sequence[str], suite: str | None = None) -> Path:
    """A cached folder with the files of `names` and all they depend on, by their versions."""
    apt.refresh()
    files = apt.closure(names, suite)
    target = apt.folder.parent.parent / "trees" / content_key(*sorted(files))
    with locked(target.parent):
        if not target.exists():
            debs = apt.download(names, suite)
            with building(target) as scratch:
                unpack(debs, scratch)
    return target


__all__ = ["Apt", "Source", "host_sources", "tree", "unpack"]
