"""The two content hashes of azure-ai-ml, so that this client and the SDK find each other's uploads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tidemill.cli.folder import Excluded, leads_back

HASH_VERSION = "202208"
_SEED = b"Initialize for october 2021 AML CLI version"
_CHUNK = 1024 * 1024


def content_hash(files: list[tuple[Path, str]]) -> str:
    """The hash of a code snapshot (hash_version 202208): count, names and sizes, then contents. Raises
    OSError, UnicodeEncodeError with a name that is not UTF-8."""
    ordered = sorted(files, key=lambda entry: entry[1].lower())
    digest = hashlib.sha256(str(len(ordered)).encode())
    for path, name in ordered:
        digest.update(b"#" + name.encode() + b"#")
        digest.update(str(path.stat().st_size).encode())
    for path, _ in ordered:
        _feed(digest, path)
    return digest.hexdigest()


def object_hash(root: Path, excluded: Excluded) -> str:
    """The hash that names the folder of an uploaded input (LocalUpload/{hash}/…). Raises as that one."""
    digest = hashlib.sha256(_SEED)
    if root.is_dir():
        real = root.resolve()
        _feed_folder(digest, real, real, excluded, ())
    else:
        _feed(digest, root.resolve())
    return digest.hexdigest()


def _feed_folder(
    digest: hashlib._Hash, folder: Path, root: Path, excluded: Excluded, above: tuple[str, ...]
) -> None:
    """`above`: the folders that it was reached through."""
    through = (*above, str(folder))
    for path in sorted(folder.iterdir(), key=lambda entry: str(entry).lower()):
        if excluded(os.path.relpath(path, root)):
            continue
        actual = path.resolve() if path.is_symlink() else path
        if actual != path and actual.is_dir() and leads_back(str(actual), through):
            continue
        digest.update(path.name.encode())
        if actual.is_file():
            _feed(digest, actual)
        elif actual.is_dir():
            _feed_folder(digest, actual, root, excluded, through)


def _feed(digest: hashlib._Hash, path: Path) -> None:
    try:
        with path.open("rb") as source:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:  # one of reading names no file
        raise OSError(error.errno, error.strerror, str(path)) from None
