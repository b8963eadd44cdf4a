"""The files that `install` writes, and the manifest by which `uninstall` removes them.

The package is unpacked and compiled once. Run from its zip archive, Python would compile it at every start,
which costs the service 1.2 MiB of private memory (measured).

The manifest names every file with its hash, and is written before them. So an interrupted install can be
repeated or removed, and a file of another origin is neither replaced nor deleted.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from importlib import resources

from giveback_agent.errors import AgentError, UsageError
from giveback_agent.install import systemd_unit
from giveback_kernel import __version__, files
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PACKAGE = "giveback_agent"
PACKAGES = (PACKAGE, "giveback_kernel")
PREFIX = "/usr/local"
MANIFEST_LIMIT_BYTES = 1 << 20
SHEBANG_LIMIT_CHARS = 120
# The unit's ProtectHome= hides these from the service.
HIDDEN_FOLDERS = ("/home/", "/root/", "/run/user/")
_PATH_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-")


class Item(Record):
    """A file to install: its bytes and mode, or the `target` of a symbolic link."""

    path: str
    data: bytes = b""
    mode: int = 0o644
    target: str = ""

    @property
    def mark(self) -> str:
        """Its entry in the manifest: `file HASH` or `link TARGET`."""
        return f"link {self.target}" if self.target else f"file {_sha256(self.data)}"


class Layout(Record):
    """The paths of an install below a prefix."""

    prefix: str

    @property
    def folder(self) -> str:
        """The folder of the package."""
        return f"{self.prefix}/lib/giveback"

    @property
    def launcher(self) -> str:
        """The path of the command."""
        return f"{self.prefix}/bin/giveback-agent"

    @property
    def manifest(self) -> str:
        """The path of the manifest."""
        return f"{self.folder}/manifest"


class Manifest(Record):
    """The list of an install: (mark, path) of files and links, and its new folders, the outer ones first."""

    entries: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()


def layout(prefix: str) -> Layout:
    """Return the paths below `prefix`. Raises UsageError if a unit or a `#!` line cannot hold it."""
    if not prefix.startswith("/") or not set(prefix) <= _PATH_CHARS or "/../" in prefix + "/":
        raise UsageError(f"--prefix {prefix!r}: must be a full path of letters, digits and /._+-")
    return Layout(prefix.rstrip("/"))


def interpreter(service: bool) -> str:
    """Return the Python for the installed command: this one, outside of any virtual environment.

    Raises AgentError if it cannot be used.
    """
    python = str(getattr(sys, "_base_executable", "") or sys.executable)
    if not python.startswith("/") or not set(python) <= _PATH_CHARS:
        raise AgentError(f"{python!r}: not a path that a '#!' line can hold; use /usr/bin/python3")
    if len(python) > SHEBANG_LIMIT_CHARS:
        raise AgentError(f"{python}: too long for a '#!' line; use /usr/bin/python3")
    if service and python.startswith(HIDDEN_FOLDERS):
        raise AgentError(
            f"{python}: a service cannot use a Python in a home folder; run this with "
            "/usr/bin/python3, or add --no-service"
        )
    return python


def plan(where: Layout, python: str, service: bool) -> tuple[Item, ...]:
    """List every file of an install, compiled for the Python that runs this."""
    items = [*_package_items(where.folder), Item(where.launcher, launcher(where, python), 0o755)]
    if service:
        items.append(Item(systemd_unit.UNIT_PATH, systemd_unit.unit(where.launcher).encode()))
        items.append(Item(systemd_unit.WANTS_PATH, target=systemd_unit.WANTS_TARGET))
    return tuple(items)


def launcher(where: Layout, python: str, removed_by: str = "giveback-agent uninstall") -> bytes:
    """Return the text of the command; `removed_by` is the command that removes it again."""
    # -I: ignore the environment and the current folder; -S: no site; -B: write no files that are not listed.
    return (
        f"#!{python} -IBS\n"
        f"# giveback-agent {__version__}; `{removed_by}` removes it.\n"
        "import sys\n"
        f'sys.path.insert(0, "{where.folder}")\n'
        f"from {PACKAGE}.__main__ import main\n"
        "sys.exit(main())\n"
    ).encode()


def _package_items(folder: str) -> Iterator[Item]:
    with tempfile.TemporaryDirectory(prefix="giveback-install-") as scratch:
        for name, source in sorted(_all_sources()):
            path = f"{folder}/{name}"
            yield Item(path, source)
            yield Item(_compiled_path(path), _compiled(scratch, path, source))


def _all_sources() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        yield from _sources(resources.files(package), package)


def _sources(at: resources.abc.Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for item in at.iterdir():
        if item.is_dir() and item.name != "__pycache__":
            yield from _sources(item, f"{name}/{item.name}")
        elif item.name.endswith(".py"):
            yield f"{name}/{item.name}", item.read_bytes()


def _compiled_path(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/__pycache__/{name[: -len('.py')]}.{sys.implementation.cache_tag}.pyc"


def _compiled(scratch: str, path: str, source: bytes) -> bytes:
    import py_compile

    plain, compiled = f"{scratch}/source", f"{scratch}/compiled"
    with open(plain, "wb") as file:
        file.write(source)
    # It does not include the time of the source, so the same source always gives the same file.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    # Only a command shows its docstring, as its description; the service would hold all others in memory.
    optimize = 0 if "/commands/" in path else 2
    py_compile.compile(
        plain, compiled, path, doraise=True, optimize=optimize, invalidation_mode=mode
    )
    with open(compiled, "rb") as file:
        return file.read()


def compile_in_place(folder: str) -> None:
    """Compile the sources that a package has put into `folder`, as `install` compiles them.

    Raises OSError.
    """
    with tempfile.TemporaryDirectory(prefix="giveback-install-") as scratch:
        for name, source in _all_sources():
            path = f"{folder}/{name}"
            place = _compiled_path(path)
            os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
            _write("/", Item(place, _compiled(scratch, path, source)))


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest. Invalid lines are skipped; their files count as not installed by giveback."""
    entries, folders = [], []
    for line in data.decode("utf-8", "replace").splitlines():
        kind, _, rest = line.partition(" ")
        what, _, path = rest.partition(" ")
        if not path.startswith("/") or "/../" in path:
            continue
        if kind in ("file", "link"):
            entries.append((f"{kind} {what}", path))
        elif kind == "folder":
            folders.append(path)
    return Manifest(tuple(entries), tuple(folders))


def format_manifest(manifest: Manifest) -> bytes:
    """Format a manifest: one line for each file, link and folder."""
    lines = [f"{mark} {path}" for mark, path in manifest.entries]
    lines += [f"folder - {path}" for path in manifest.folders]
    return "".join(line + "\n" for line in lines).encode()


def read_manifest(root: str, where: Layout) -> Manifest | None:
    """Read the manifest below a prefix; None if nothing is installed there. Raises KernelFileError."""
    if not files.exists(root, where.manifest):
        return None
    return parse_manifest(files.read(root, where.manifest, MANIFEST_LIMIT_BYTES))


def conflicts(root: str, items: Iterable[Item], installed: Manifest | None) -> tuple[str, ...]:
    """Return the paths of `items` at which there is a file that no install wrote."""
    ours = set(installed.entries) if installed else set()
    found = []
    for item in items:
        mark = mark_of(root, item.path)
        if mark is not None and (mark, item.path) not in ours:
            found.append(item.path)
    return tuple(found)


def mark_of(root: str, path: str) -> str | None:
    """Return the mark of the file at `path`; None if there is none, `other` for a folder or similar."""
    full = files.under(root, path)
    try:
        if os.path.islink(full):
            return f"link {os.readlink(full)}"
        if os.path.isfile(full):
            with open(full, "rb") as file:
                return f"file {_sha256(file.read(MANIFEST_LIMIT_BYTES + 1))}"
    except OSError:
        return "other"
    return "other" if os.path.lexists(full) else None


def write_all(root: str, where: Layout, items: Sequence[Item]) -> None:
    """Install `items`, replacing the files of an earlier install.

    Raises AgentError, before anything is written, if a file of another origin is in the way. Raises it
    also if a write fails; the files written until then are in the manifest.
    """
    old = read_manifest(root, where)
    in_the_way = conflicts(root, items, old)
    if in_the_way or (old is None and files.exists(root, where.folder)):
        named = ", ".join(in_the_way) or where.folder
        raise AgentError(f"{named}: not installed by giveback-agent; move it away, and try again")
    old = old or Manifest()
    new = tuple((item.mark, item.path) for item in items)
    paths = [where.manifest, *(item.path for item in items)]
    folders = old.folders + tuple(f for f in _missing_folders(root, paths) if f not in old.folders)
    try:
        for folder in folders:
            os.makedirs(files.under(root, folder), mode=0o755, exist_ok=True)
        both = Manifest(tuple(dict.fromkeys(old.entries + new)), folders)
        _write(root, Item(where.manifest, format_manifest(both)))
        for item in items:
            _write(root, item)
        kept = {path for _, path in new}
        remove_entries(root, [entry for entry in old.entries if entry[1] not in kept])
        _write(root, Item(where.manifest, format_manifest(Manifest(new, folders))))
    except OSError as error:
        raise AgentError(_words(error)) from error


def remove_all(root: str, where: Layout, manifest: Manifest) -> tuple[str, ...]:
    """Remove the unchanged files of the manifest; return the changed ones, which are kept.

    Raises AgentError if a removal fails.
    """
    try:
        kept = remove_entries(root, manifest.entries)
        os.unlink(files.under(root, where.manifest))
        for folder in reversed(manifest.folders):
            _remove_folders(root, folder)
    except OSError as error:
        raise AgentError(_words(error)) from error
    return kept


def remove_entries(root: str, entries: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Remove files that still match the manifest; return the paths of those that do not.

    Raises OSError.
    """
    ours: dict[str, list[str]] = {}
    for mark, path in entries:
        ours.setdefault(path, []).append(mark)
    kept = []
    for path, marks in ours.items():
        found = mark_of(root, path)
        if found in marks:
            os.unlink(files.under(root, path))
        elif found is not None:
            kept.append(path)
    return tuple(kept)


def _remove_folders(root: str, folder: str) -> None:
    try:
        os.rmdir(files.under(root, folder))
    except OSError:
        # Not empty: it has files of another program.
        return


def _missing_folders(root: str, paths: Iterable[str]) -> list[str]:
    missing: list[str] = []
    for path in paths:
        folder, chain = os.path.dirname(path), []
        while folder != "/" and folder not in missing and not files.exists(root, folder):
            chain.append(folder)
            folder = os.path.dirname(folder)
        missing += reversed(chain)
    return missing


def _write(root: str, item: Item) -> None:
    """Write one file atomically. Raises OSError."""
    full = files.under(root, item.path)
    scratch = f"{full}.giveback-new"
    if os.path.lexists(scratch):
        os.unlink(scratch)
    if item.target:
        os.symlink(item.target, scratch)
    else:
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(item.data)
            os.fchmod(file.fileno(), item.mode)
    os.replace(scratch, full)


def _words(error: OSError) -> str:
    reason = os.strerror(error.errno or 0)
    hint = ": run this as root" if isinstance(error, PermissionError) and os.geteuid() else ""
    return f"{error.filename}: {reason}{hint}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
