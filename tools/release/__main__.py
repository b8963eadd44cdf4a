"""Make a release: check, build, notes, tag."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from release import (
    bill_of_materials,
    guest_packages,
    host_packages,
    pages,
    publish,
    python_packages,
    repositories,
    sums,
)
from release.release import Release, ReleaseError, export

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[2]
HOST, REPOSITORIES = "host", "repositories"
STEPS: dict[str, Callable[[Release], list[Path]]] = {
    "python": python_packages.build,
    "pages": pages.build,
    "packages": guest_packages.build,
    HOST: host_packages.build,
    REPOSITORIES: partial(repositories.build, key=None),
    "sbom": bill_of_materials.build,
}
"""The steps of a build in their order: later ones use what earlier ones made.

`host-3.13-amd64` builds one target of `host`."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a build is signed with; None: not signed."""

    minisign: Path | None = None
    gpg: Path | None = None


def main(words: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = argparse.ArgumentParser(prog="./run release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build every artefact of a commit")
    build.add_argument("out", type=Path, metavar="OUT", help="an empty folder, or none yet")
    build.add_argument("--revision", default="HEAD", help="the commit (default: %(default)s)")
    build.add_argument("--only", default=",".join(STEPS), metavar="STEPS", help="of: %(default)s")
    build.add_argument(
        "--key",
        type=Path,
        help="sign SHA256SUMS with this secret key of minisign, without a password",
    )
    build.add_argument(
        "--gpg-key",
        type=Path,
        help="sign the repositories with this secret OpenPGP key, without a password",
    )
    commands.add_parser("check", help="say what stands in the way of a release")
    commands.add_parser("notes", help="print the notes, from the fragments")
    tagging = commands.add_parser("tag", help="join the fragments into CHANGELOG.md, commit, tag")
    tagging.add_argument(
        "--yes", action="store_true", help="do it, not only show it; nothing is pushed"
    )
    args = parser.parse_args(words)
    try:
        return _run(args)
    except ReleaseError as error:
        sys.stderr.write(f"release: {error}\n")
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.command == "check":
        found = publish.obstacles(REPOSITORY)
        print(
            "\n".join(found)
            or "nothing stands in the way: run the tests (./run test), then tag, and build the tag"
        )
        return 1 if found else 0
    if args.command == "notes":
        print(publish.notes(REPOSITORY))
    elif args.command == "tag":
        done = publish.tag(REPOSITORY, is_meant=args.yes)
        print("\n".join(done if args.yes else (*done, "nothing was changed; --yes does it")))
    else:
        keys = Keys(args.key, args.gpg_key)
        built = make(args.out, args.revision, args.only.split(","), keys)
        print(f"{len(built)} files in {args.out}")
    return 0


def _step(name: str, keys: Keys) -> Callable[[Release], list[Path]]:
    """Return a step by its name. Raises ReleaseError."""
    if name == REPOSITORIES:
        return partial(repositories.build, key=keys.gpg)
    if name in STEPS:
        return STEPS[name]
    for target in host_packages.TARGETS:
        if name == f"{HOST}-{target.name}":
            return partial(host_packages.build_one, target=target)
    known = ", ".join((*STEPS, *(f"{HOST}-{target.name}" for target in host_packages.TARGETS)))
    raise ReleaseError(f"--only {name}: the steps are {known}")


def make(out: Path, revision: str, steps: list[str], keys: Keys) -> list[Path]:
    """Build these steps of a commit into `out`. Raises ReleaseError."""
    for step in steps:
        _step(step, keys)
    # Before the build takes its minutes, and fills OUT.
    if keys.minisign is not None:
        sums.secret_of(keys.minisign)
    if keys.gpg is not None and not keys.gpg.is_file():
        raise ReleaseError(
            f"--gpg-key {keys.gpg}: no such file; `gpg --export-secret-keys` makes one"
        )
    if out.exists() and any(out.iterdir()):
        raise ReleaseError(f"{out} is not empty: name another folder, or empty it")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="giveback-release-") as scratch:
        release = export(REPOSITORY, Path(scratch) / "tree", out.resolve(), revision)
        print(f"giveback {release.version}, commit {release.commit[:12]}")
        made = []
        for step in steps:
            begun_s = time.monotonic()
            files = _step(step, keys)(release)
            made += files
            print(f"{step}: {len(files)} files in {time.monotonic() - begun_s:.1f} s")
        return [*made, *sums.write(release, made, keys.minisign)]


if __name__ == "__main__":
    sys.exit(main())
