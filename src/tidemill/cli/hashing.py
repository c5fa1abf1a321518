"""The two content hashes of azure-ai-ml, so that this client and the SDK find each other's uploads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

HASH_VERSION = "202208"
_SEED = b"Initialize for october 2021 AML CLI version"
_CHUNK = 1024 * 1024

Excluded = Callable[[str], bool]


def files_of(root: Path, excluded: Excluded) -> list[tuple[Path, str]]:
    """(file, path relative to root) of every file that is not ignored; links are followed. A file: itself."""
    if root.is_file():
        return [(root.resolve(), root.name)]
    found: list[tuple[Path, str]] = []
    for folder, _, names in os.walk(root, followlinks=True):
        base = Path(folder)
        relative = base.relative_to(root)
        for name in names:
            inside = (relative / name).as_posix()
            path = base / name
            if not excluded(inside) and path.is_file():
                found.append((path.resolve(), inside))
    return found


def content_hash(files: list[tuple[Path, str]]) -> str:
    """The hash of a code snapshot (hash_version 202208): count, names and sizes, then contents."""
    ordered = sorted(files, key=lambda entry: entry[1].lower())
    digest = hashlib.sha256(str(len(ordered)).encode())
    for path, name in ordered:
        digest.update(f"#{name}#".encode())
        digest.update(str(path.stat().st_size).encode())
    for path, _ in ordered:
        _feed(digest, path)
    return digest.hexdigest()


def object_hash(root: Path, excluded: Excluded) -> str:
    """The hash that names the folder of an uploaded input (LocalUpload/{hash}/…)."""
    digest = hashlib.sha256(_SEED)
    if root.is_dir():
        _feed_folder(digest, root, root, excluded)
    else:
        _feed(digest, root.resolve())
    return digest.hexdigest()


def _feed_folder(digest: hashlib._Hash, folder: Path, root: Path, excluded: Excluded) -> None:
    for path in sorted(folder.iterdir(), key=lambda entry: str(entry).lower()):
        if excluded(path.relative_to(root).as_posix()):
            continue
        digest.update(path.name.encode())
        actual = path.resolve() if path.is_symlink() else path
        if actual.is_file():
            _feed(digest, actual)
        elif actual.is_dir():
            _feed_folder(digest, path, root, excluded)


def _feed(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
