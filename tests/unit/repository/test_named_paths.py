"""Every file and module of this repository that is named anywhere in it exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXTS = (".md", ".py", ".toml", ".yml")
# Results of a run name the paths of their day, and stay as they were measured.
RESULTS = re.compile(r"docs/benchmarks/[^/]+/")
# Paths in other projects' repositories, cited as sources.
FOREIGN = {
    "docs/balloon.md",
    "docs/UIDS-GIDS.md",
    "docs/ballooning.md",
    "docs/interop",
    "docs/memory.md",
    "docs/pcie.txt",
    "docs/system/invocation",
    "docs/vsock.md",
}
PATH = re.compile(
    r"(?<![\w/.-])((?:src/)?giveback(?:_\w+)?/[\w./-]*\w|(?:tests|docs|benchmarks)/[\w./-]*\w)"
)
MODULE = re.compile(r"(?<![\w/.-])giveback(?:_agent|_kernel|_lab|_lab_guest)?(?:\.[a-z_]\w*)+")
EXAMPLE = re.compile(r"^```python\n.*?^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"`([a-z_]\w*\.py)`")
# Not modules: domain names, logger names, settings' keys, files in /etc, figures of a run by its VM,
# and names that a test makes up.
OTHER_NAMES = re.compile(
    r"giveback(?:_\w+)?\.(?:"
    r"__file__|commands\.probe|mood|\w+_(?:s|bytes|ratio|min)|"
    r"agent|conf|toml|asking|daemon|looking|settings|sock|web|py|egg|db|io|service|"
    r"mode|swap|exclude|dryRun|pageReporting|idle\w*|cacheFloor|lowestReportOrder|dry|page|cache|lowest)\b"
)


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def texts() -> list[str]:
    return [
        name
        for name in tracked()
        if (name.endswith(TEXTS) or name in {"run", ".ci/run"})
        and not RESULTS.match(name)
        and (ROOT / name).is_file()
    ]


def is_module(name: str) -> bool:
    """Whether a prefix of the dotted name, all of it but attributes, is a module."""
    parts = name.split(".")
    package = ROOT / "src" / parts[0]
    for at, part in enumerate(parts[1:], 1):
        inner = package / part
        if inner.is_dir():
            package = inner
            continue
        # What is left are a module's attributes, of which there are few.
        return inner.with_suffix(".py").is_file() or (
            at == len(parts) - 1 and _defines(package / "__init__.py", part)
        )
    return True


def _defines(file: Path, name: str) -> bool:
    return file.is_file() and re.search(rf"\b{name}\b", file.read_text()) is not None


def exists(path: str, beside: Path) -> bool:
    roots = (ROOT, ROOT / "src", beside)
    return any((root / path).exists() or (root / f"{path}.py").exists() for root in roots)


@pytest.mark.parametrize("name", texts())
def test_what_a_file_names_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    if name == "CONTRIBUTING.md":
        # Its examples are files that a reader would add; test_contributing.py runs them.
        text = EXAMPLE.sub("", text)
    paths = {match[1].rstrip(".") for match in PATH.finditer(text)} - FOREIGN
    # Below /etc, /run and the like there are folders of our name: those start with a slash.
    gone = {
        path
        for path in paths
        if not exists(path, (ROOT / name).parent) and not _is_in_the_system(path)
    }
    assert not gone, f"{name} names {sorted(gone)}"
    modules = {match[0] for match in MODULE.finditer(text) if not OTHER_NAMES.match(match[0])}
    missing = {module for module in modules if not is_module(module)}
    assert not missing, f"{name} names {sorted(missing)}"
    files = {Path(path).name for path in tracked()}
    unknown = {match[1] for match in FILE_NAME.finditer(text)} - files
    assert not unknown, f"{name} names {sorted(unknown)}"


def _is_in_the_system(path: str) -> bool:
    parts = path.split("/")
    return parts[0] == "giveback" and not (ROOT / "src/giveback" / parts[1]).is_dir()
