"""The bill of materials (CycloneDX) of what `giveback` installs: each dependency with its hashes."""

from __future__ import annotations

import json
import re
import tomllib
import uuid
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from release.release import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from release.release import Release

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([\w.!+-]+)")
Pin = tuple[str, tuple[str, ...]]
"""A version, and the SHA-256 hashes of its files."""
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def build(release: Release) -> list[Path]:
    """Write the bill of the host's distribution, from the lock; return its file. Raises ReleaseError."""
    # A distribution may have several versions there, for several Pythons.
    locked: dict[str, list[Pin]] = {}
    for name, pin in pins((release.tree / "requirements.lock").read_text()):
        locked.setdefault(name, []).append(pin)
    needed = needed_by(release)
    missing = sorted(needed - set(locked))
    if missing:
        raise ReleaseError(
            f"requirements.lock lacks {', '.join(missing)}: docs/development.md has how to make it"
        )
    other = sorted(name for name in needed if version(name) not in {p[0] for p in locked[name]})
    if other:
        raise ReleaseError(
            f"the environment has other versions of {', '.join(other)} than that commit's lock: build "
            "from a checkout of it"
        )
    path = release.folder("sbom") / f"giveback-{release.version}.cdx.json"
    parts = [component(name, *pin) for name in sorted(needed) for pin in sorted(locked[name])]
    path.write_text(json.dumps(document(release, parts), indent=1) + "\n")
    _check(path.read_text())
    return [path]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the normalised name and the whole text of each requirement in a lock file."""
    for block in re.split(r"\n(?=\S)", text):
        if pin := _PIN.match(block):
            yield normal(pin[1]), block


def pins(text: str) -> Iterator[tuple[str, Pin]]:
    """Yield (name, (version, SHA-256 hashes)) of each requirement in a lock file."""
    for name, block in blocks(text):
        if pin := _PIN.match(block):
            yield name, (pin[2], tuple(sorted(_HASH.findall(block))))


def normal(name: str) -> str:
    """Return a distribution's normalised name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def component(name: str, version: str, hashes: tuple[str, ...]) -> dict[str, object]:
    """Return one dependency as CycloneDX has it, with the hashes of its files for all machines."""
    files = [
        {
            "type": "distribution",
            "url": f"pkg:pypi/{name}@{version}",
            "hashes": [{"alg": "SHA-256", "content": one}],
        }
        for one in hashes
    ]
    return {
        "type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}",
        "bom-ref": f"pkg:pypi/{name}@{version}", "externalReferences": files,
    }  # fmt: skip


def document(release: Release, parts: list[dict[str, object]]) -> dict[str, object]:
    """Return the whole bill; its serial number follows from the commit, so that builds are equal."""
    when = datetime.fromtimestamp(release.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    own = f"pkg:pypi/giveback@{release.version}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'giveback:{release.commit}')}",
        "version": 1,
        "metadata": {
            "timestamp": when,
            "component": {
                "type": "application", "name": "giveback", "version": release.version, "bom-ref": own,
                "purl": own, "licenses": [{"license": {"id": "Apache-2.0"}}],
                "properties": [{"name": "giveback:commit", "value": release.commit}],
            },
        },
        "components": parts,
        "dependencies": [{"ref": own, "dependsOn": [str(part["bom-ref"]) for part in parts]}],
    }  # fmt: skip


def needed_by(release: Release, python: str = "") -> set[str]:
    """Return the normalised names of all that `pip install giveback` brings, with this Python or another.

    The commit says what it requires itself, this environment's metadata what those require.
    """
    text = (release.tree / "packages/host/pyproject.toml").read_text()
    own = tomllib.loads(text)["tool"]["hatch"]["metadata"]["hooks"]["custom"]["others"]
    place = {"extra": ""}
    if python:
        place |= {"python_version": python, "python_full_version": f"{python}.0"}
    seen: set[str] = set()
    todo = [Requirement(one) for one in own]
    while todo:
        one = todo.pop()
        name = normal(one.name)
        if name not in seen and (one.marker is None or one.marker.evaluate(place)):
            seen.add(name)
            todo += [Requirement(text) for text in _requires(name)]
    return seen


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError as error:
        raise ReleaseError(
            f"{name} is required by that commit and not installed here: build from a checkout of it"
        ) from error


def _check(text: str) -> None:
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise ReleaseError(f"the bill of materials is not CycloneDX: {error!r}"[:400])
