"""SHA256SUMS of all artefacts, signed with minisign's key where one is given."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from release.release import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import minisign

    from release.release import Release

NAME = "SHA256SUMS"


def write(release: Release, files: Iterable[Path], key: Path | None) -> list[Path]:
    """Write the sums, in `sha256sum`'s format, and their signature. Raises ReleaseError."""
    path = release.out / NAME
    rows = sorted((str(file.relative_to(release.out)), digest(file)) for file in set(files))
    path.write_text("".join(f"{found}  {name}\n" for name, found in rows))
    return (
        [path]
        if key is None
        else [path, sign(path, key, f"giveback {release.version} {release.commit}")]
    )


def digest(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def secret_of(key: Path) -> minisign.SecretKey:
    """Return the secret key in a file. Raises ReleaseError if it cannot be used without a password."""
    import minisign  # noqa: PLC0415

    try:
        secret = minisign.SecretKey.from_file(key)
    except (OSError, ValueError, minisign.Error) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ReleaseError(f"--key {key}: {why}; `minisign -G -W` makes one") from error
    if secret.is_encrypted():
        raise ReleaseError(
            f"--key {key}: has a password, which a build cannot ask for; `minisign -C -W` removes it"
        )
    return secret


def sign(path: Path, key: Path, comment: str) -> Path:
    """Sign a file as `minisign -S` does; return the signature's file. Raises ReleaseError.

    Ed25519 is deterministic, so that equal sums and one key give equal signatures.
    """
    with path.open("rb") as file:
        signature = secret_of(key).sign(
            file, trusted_comment=comment, untrusted_comment="giveback release"
        )
    made = path.with_name(f"{path.name}.minisig")
    made.write_bytes(bytes(signature))
    return made
