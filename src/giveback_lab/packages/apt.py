"""Distribution packages without root: a private apt state in the user's cache folder.

The host's own apt settings (mirrors, proxies, keyrings) are used unchanged. Only the state, the
cache and the list of suites are private, so nothing of the user's system changes. apt checks
signatures as always.
"""

from __future__ import annotations

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.packages.apt_run import run_apt
from giveback_lab.packages.cache import built, cache_root, content_key, locked, make_folder, used
from giveback_lab.packages.sources import host_sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from giveback_lab.packages.sources import AptSource

LISTS_MAX_AGE_S = 86_400


class Apt:
    """An apt with a private state: it sees the host's suites and more, and no installed package."""

    def __init__(
        self,
        extra_suites: Iterable[str] = (),
        root: Path | None = None,
        source_packages: bool = False,
        sources: tuple[AptSource, ...] = (),
        architecture: str = "",
    ) -> None:
        """Make the private state.

        `extra_suites` (such as "bookworm-backports") are added to the host's own suites.
        `source_packages` adds the release's source packages, for `source_archive`. `sources`, if
        given, replace the host's. `architecture` is Debian's name of another machine's
        architecture.
        """
        own = sources or host_sources()
        main = next((s for s in own if "-" not in s.suite), own[0])
        lines = [s.line() for s in own]
        lines += [main.line(suite) for suite in extra_suites if suite not in {s.suite for s in own}]
        if source_packages:
            lines.append(main.line(kind="deb-src"))
        self.source_lines = tuple(lines)
        self._sources_text = "\n".join(lines) + "\n"
        self._architecture = architecture
        key = content_key(self._sources_text, *([architecture] if architecture else []))
        self.folder = (root or cache_root()) / "apt" / key

    def _run(self, words: Sequence[str], tool: str = "apt-get", cwd: Path | None = None) -> str:
        return run_apt(words, self.folder, self._architecture, tool, cwd)

    def refresh(self) -> None:
        """Fetch the package lists unless they are less than a day old. Raises InputError."""
        stamp = self.folder / "state" / "refreshed"
        with locked(self.folder):
            for sub in ("state/lists/partial", "cache/archives/partial"):
                make_folder(self.folder / sub)
            (self.folder / "state" / "status").touch()
            used(self.folder)
            (self.folder / "sources.list").write_text(self._sources_text)
            if stamp.exists() and _age_s(stamp) < LISTS_MAX_AGE_S:
                return
            try:
                self._run(["update"])
            except InputError:
                # Without network, the old lists still describe the packages that were downloaded
                # with them.
                if not stamp.exists() and not any(
                    (self.folder / "state/lists").glob("*_Packages*")
                ):
                    raise
                return
            stamp.touch()

    def closure(self, names: Sequence[str], suite: str | None = None) -> tuple[str, ...]:
        """Return the file names of the packages `names` and of all their dependencies.

        Raises InputError if a package is unknown.
        """
        words = ["-s", "-qq", *(["-t", suite] if suite else []), "install"]
        plan = self._run([*words, "--no-install-recommends", *names])
        return tuple(_archive_name(row) for row in plan.splitlines() if row.startswith("Inst "))

    def names(self, pattern: str) -> tuple[str, ...]:
        """Return the names of packages that match an extended regular expression."""
        rows = self._run(["--names-only", "search", pattern], tool="apt-cache").splitlines()
        return tuple(row.split()[0] for row in rows if row.strip())

    def dependency(self, package: str, prefix: str, suite: str | None = None) -> str:
        """Return the package named `prefix…` that a meta-package depends on. Raises InputError."""
        for row in self._show(f"{package}/{suite}" if suite else package):
            if row.startswith("Depends:"):
                for item in row.removeprefix("Depends:").split(","):
                    name = item.split()[0]
                    if name.startswith(prefix):
                        return name
        raise InputError(f"{package}: depends on no package named {prefix}…")

    def download(
        self, names: Sequence[str], suite: str | None = None, deps: bool = True
    ) -> list[Path]:
        """Fetch packages, with their dependencies if `deps`; return the .deb files. Raises InputError."""
        archives = self.folder / "cache" / "archives"
        with locked(self.folder / "cache"):
            if deps:
                wanted = self.closure(names, suite)
                words = ["-y", "-d", "-qq", "install", "--no-install-recommends"]
                self._run([*words, *(["-t", suite] if suite else []), *names])
                return [archives / f for f in wanted]
            wanted = tuple(self._archive_of(name, suite) for name in names)
            for name, file in zip(names, wanted, strict=True):
                if not (archives / file).exists():
                    target = f"{name}/{suite}" if suite else name
                    self._run(["-qq", "download", target], cwd=archives)
            return [archives / file for file in wanted]

    def source_archive(self, name: str) -> Path:
        """Fetch a source package's upstream archive (`.orig.tar.*`). Raises InputError."""
        archives = self.folder / "cache" / "archives"
        words = ["-qq", "source", "--download-only", "--only-source", name]
        # Run outside `archives`: apt does not name files that are already there.
        for row in self._run(["--print-uris", *words], cwd=self.folder).splitlines():
            # 'URI' FILE SIZE HASH
            file = row.rpartition("' ")[2].split(" ")[0]
            if ".orig.tar." in file and not file.endswith(".asc"):
                with locked(self.folder / "cache"):
                    if not (archives / file).exists():
                        self._run(words, cwd=archives)
                return archives / file
        raise InputError(f"{name}: a source package without an upstream archive")

    def _show(self, target: str) -> list[str]:
        """Return the lines about a package. Raises InputError."""
        words = ["show", "--no-all-versions", target]
        try:
            return self._run(words, tool="apt-cache").splitlines()
        except InputError:
            # Another process may have been writing the cache of apt, which was empty for a moment.
            return self._run(words, tool="apt-cache").splitlines()

    def _archive_of(self, name: str, suite: str | None) -> str:
        listing = self._show(f"{name}/{suite}" if suite else name)
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
    """Extract packages into a folder with a merged /usr, without running maintainer scripts.

    tar takes no name with `..` in it, and makes links that lead out of the folder after all files. None
    of the files is writable by others, whatever the umask: programs among them are run on the host.
    """
    for name in ("bin", "sbin", "lib", "lib64"):
        make_folder(into / "usr" / name)
        if not (into / name).exists():
            (into / name).symlink_to(f"usr/{name}")
    # Two packages never share a file, so their order does not matter. tar is CPU-bound, so run
    # several.
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda deb: _unpack_one(deb, into), debs))


def _unpack_one(deb: Path, into: Path) -> None:
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as reader:
        done = subprocess.run(
            [
                "tar", "-xC", str(into), "--keep-directory-symlink", "--no-same-owner",
                "--no-same-permissions", "-f", "-",
            ],
            stdin=reader.stdout, capture_output=True, text=True, check=False, umask=0o022,
        )  # fmt: skip
    if reader.returncode != 0 or done.returncode != 0:
        raise InputError(
            f"{deb}: cannot be unpacked: {done.stderr.strip()[:200] or 'broken package'}"
        )


def tree(apt: Apt, names: Sequence[str], suite: str | None = None) -> Path:
    """Return a cached folder with the files of `names` and their dependencies, keyed by their versions."""
    apt.refresh()
    files = apt.closure(names, suite)
    target = apt.folder.parent.parent / "trees" / content_key(*sorted(files))
    return built(target, lambda scratch: unpack(apt.download(names, suite), scratch))


def tree_alone(name: str) -> Path:
    """Return a cached folder with the files of one of the host's packages, without its dependencies."""
    apt = Apt()
    apt.refresh()
    debs = apt.download([name], deps=False)
    target = cache_root() / "trees" / content_key("alone", debs[0].name)
    return built(target, lambda scratch: unpack(debs, scratch))
