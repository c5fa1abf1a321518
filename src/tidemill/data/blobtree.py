"""Trees of files to blobs and back, without leaving either side's root."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.data.blobfiles import copy_range
from tidemill.data.blobindex import out_of_space
from tidemill.domain.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from tidemill.data.blobmodel import BlobInfo
    from tidemill.data.blobstore import BlobStore

Skipped = Callable[[str, str], None]
"""Called with (path below the directory, why it is not stored)."""

Going = Callable[[], None]
"""Called now and then; what it raises ends the copying."""

_PAGE = 1000
_SLICE = 256 * 2**20  # bytes between two calls of `going`


def files_below(directory: Path, skipped: Skipped | None = None) -> Iterator[tuple[str, Path]]:
    """-> (name with `/`, file to read) of everything that can become a blob, sorted within each folder.
    A link is followed where its target is a file inside `directory`; linked folders are not walked."""
    root = directory.resolve(strict=True)
    tell = skipped or (lambda path, reason: None)
    for folder, folders, files in os.walk(root, followlinks=False):
        folders.sort()
        for name in folders:
            path = Path(folder, name)
            if path.is_symlink():
                tell(os.path.relpath(path, root), "a link to a folder")
        for name in sorted(files):
            path = Path(folder, name)
            relative = os.path.relpath(path, root).replace(os.sep, "/")
            reason = _why_not(path, relative, root)
            if reason:
                tell(relative.encode("utf-8", "backslashreplace").decode(), reason)
            else:
                yield relative, path.resolve()


def copy_blobs_out(
    store: BlobStore,
    account: str,
    container: str,
    prefix_or_name: str,
    destination: Path,
    going: Going,
) -> int:
    """See BlobStore.copy_out."""
    if prefix_or_name:
        copied = _copy_one(store, account, container, prefix_or_name, destination, going)
        if copied is not None:
            return copied
    prefix = prefix_or_name.rstrip("/") + "/" if prefix_or_name else ""
    total, found, marker = 0, False, ""
    while True:
        page = store.list(account, container, prefix, "", marker, _PAGE)
        for info in page.blobs:
            found = True
            total += _copy_below(store, info, prefix, destination, going)
        if not page.next_marker:
            break
        marker = page.next_marker
    if not found:
        raise NotFound(
            f"Nothing is stored at {prefix_or_name!r} in container {container!r}: neither a blob of that "
            "name nor one below it.",
            "BlobNotFound",
        )
    return total


def safe_parts(relative: str) -> list[str]:
    """The folders and the name of a blob below a destination. Raises InvalidRequest for names that a file
    system cannot hold or that would lead elsewhere."""
    parts = relative.split("/")
    for part in parts:
        if part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255:
            why = "leads out of the folder" if part in (".", "..") else "no file system can hold it"
            raise InvalidRequest(
                f"Blob {relative[:200]!r} cannot be copied to a folder: {part[:40]!r} in its name {why}. "
                "Rename it, or read it by its address.",
                "UnsafeName",
            )
    return parts


def _why_not(path: Path, relative: str, root: Path) -> str:
    try:
        relative.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        target = path.resolve()
        if not target.is_relative_to(root):
            return "a link that leads out of the folder"
        if not target.is_file():
            return "a link to nothing"
        status = target.stat()
    return "" if stat.S_ISREG(status.st_mode) else "not a regular file"


def _copy_below(store: BlobStore, info: BlobInfo, prefix: str, destination: Path, going: Going) -> int:
    relative = info.name[len(prefix) :]
    if relative.endswith("/") and info.size == 0:  # a marker that stands for a folder
        destination.joinpath(*safe_parts(relative[:-1])).mkdir(parents=True, exist_ok=True)
        return 0
    target = destination.joinpath(*safe_parts(relative))
    copied = _copy_one(store, info.account, info.container, info.name, target, going)
    return copied or 0


def _copy_one(
    store: BlobStore, account: str, container: str, name: str, target: Path, going: Going
) -> int | None:
    opened = store.open(account, container, name)
    if opened is None:
        return None
    info, source = opened
    try:
        with out_of_space(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(target, flags, 0o644)
            try:
                for offset in range(0, info.size, _SLICE):
                    going()
                    copy_range(source, offset, fd, offset, min(_SLICE, info.size - offset))
            finally:
                os.close(fd)
    finally:
        os.close(source)
    return info.size
