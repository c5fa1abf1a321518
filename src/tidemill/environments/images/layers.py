"""Layers onto a root file system, one after the other, as the OCI image spec says (layer.md).

Nothing that a layer says is written outside the root: names are walked by `beneath.Tree`. Owners, extended
attributes (file capabilities among them), set-user-id bits and write permissions are dropped and device files
left out: the tree is read-only and its files are nobody's but the server's. Links are kept as they are, and
mean what they say only to a process that has the tree as its root.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, cast

from tidemill.environments.images.beneath import FOLDER, Outside, Tree, is_folder, split

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
CHUNK = 1 << 20
MOST_ENTRIES = 5_000_000
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


# What the file system says to a name or a size, and what the parser says to bytes, that no layer should have.
_REFUSED = (errno.ENAMETOOLONG, errno.EFBIG, errno.EINVAL, errno.ELOOP)
_UNREADABLE = (
    tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError, MemoryError, RecursionError, KeyError,
)  # fmt: skip


class BadLayer(ValueError):
    """A layer that is refused. `str()` names the entry and the reason."""


@dataclass(slots=True)
class Applied:
    """What has been done so far. `size` in bytes; the limits are those of the whole image."""

    most_bytes: int
    entries: int = 0
    size: int = 0
    skipped: int = 0  # devices, pipes: the sandbox brings its own /dev
    on_progress: Callable[[Applied], None] = field(default=lambda _: None)


class Applier:
    """Applies layers to `tree`, lowest first."""

    def __init__(self, tree: Tree, done: Applied) -> None:
        self._tree = tree
        self._done = done
        self._here: set[tuple[int, str]] = set()  # what the layer that is being applied has brought

    def apply(self, archive: IO[bytes]) -> None:
        """`archive`: the tar, decompressed. Raises BadLayer, and OSError where the disk refuses."""
        self._here.clear()
        try:
            with tarfile.open(fileobj=archive, mode="r|", bufsize=CHUNK) as tar:
                for entry in tar:
                    self._take(tar, entry)
                    tar.members.clear()  # type: ignore[attr-defined]  # else all of them are kept
        except BadLayer:
            raise
        except OSError as error:
            if isinstance(error, gzip.BadGzipFile) or error.errno in _REFUSED:
                raise BadLayer(f"it cannot be unpacked: {error}") from None
            raise
        except _UNREADABLE as error:
            raise BadLayer(f"it is no archive that can be read: {error or type(error).__name__}") from None
        finally:
            self._tree.forget()

    def _take(self, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        self._done.entries += 1
        if self._done.entries > MOST_ENTRIES:
            raise BadLayer(f"the image has more than {MOST_ENTRIES} entries")
        parts = self._parts(entry.name)
        if not parts:
            return  # the root itself
        try:
            if parts[-1].startswith(WHITEOUT):
                self._whiteout(parts)
            else:
                self._put(tar, entry, parts)
        except (Outside, FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
            raise BadLayer(f"{entry.name!r}: {error}") from None
        if self._done.entries % 500 == 0:
            self._done.on_progress(self._done)

    @staticmethod
    def _parts(name: str) -> tuple[str, ...]:
        parts = tuple(split(name))
        if ".." in parts:
            raise BadLayer(f"{name!r} leads out of the image")
        return parts

    def _whiteout(self, parts: tuple[str, ...]) -> None:
        """Hides what lower layers brought, never what this one brings, in whatever order it says so."""
        name = parts[-1]
        if name[len(WHITEOUT) :] in ("", ".", ".."):
            raise BadLayer(f"{'/'.join(parts)!r} hides nothing that can be named")
        try:
            folder = os.dup(self._tree.parent(parts))
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            if name == OPAQUE:
                for there in os.listdir(folder):
                    self._hide(folder, there)
            elif not name.startswith(WHITEOUT * 2):  # aufs keeps books in such files
                self._hide(folder, name[len(WHITEOUT) :])
        finally:
            os.close(folder)
        self._tree.forget()

    def _hide(self, folder: int, name: str) -> bool:
        """-> whether something of this layer is left there."""
        if not is_folder(name, folder):
            if self._key(folder, name) in self._here:
                return True
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            return False
        inner = os.open(name, FOLDER, dir_fd=folder)
        try:
            left = [self._hide(inner, there) for there in os.listdir(inner)]
        finally:
            os.close(inner)
        if any(left) or self._key(folder, name) in self._here:
            return True
        os.rmdir(name, dir_fd=folder)
        return False

    @staticmethod
    def _key(folder: int, name: str) -> tuple[int, str]:
        """A name may be reached by several paths: its folder's inode tells which it is."""
        return os.fstat(folder).st_ino, name

    def _put(self, tar: tarfile.TarFile, entry: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        if entry.isreg():
            self._clear(parts)
            self._file(tar, entry, parts)
        elif entry.isdir():
            self._folder(parts)
        elif entry.issym():
            self._clear(parts)
            os.symlink(entry.linkname, parts[-1], dir_fd=self._tree.parent(parts, make=True))
        elif entry.islnk():
            self._hard_link(entry, parts)
        elif entry.isdev():
            self._done.skipped += 1
            return
        else:
            raise BadLayer(f"{entry.name!r} is of an unknown kind ({entry.type!r})")
        self._here.add(self._key(self._tree.parent(parts), parts[-1]))

    def _clear(self, parts: tuple[str, ...]) -> None:
        """Something else of that name, of whatever layer, gives way."""
        folder = self._tree.parent(parts, make=True)
        try:
            os.unlink(parts[-1], dir_fd=folder)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            self._tree.remove(parts)

    def _folder(self, parts: tuple[str, ...]) -> None:
        folder = self._tree.parent(parts, make=True)
        if not is_folder(parts[-1], folder):
            self._clear(parts)
            os.mkdir(parts[-1], 0o755, dir_fd=self._tree.parent(parts, make=True))

    def _file(self, tar: tarfile.TarFile, entry: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        pieces: list[tuple[int, int]] = getattr(entry, "sparse", None) or [(0, entry.size)]
        if entry.size < 0 or any(offset < 0 or size < 0 for offset, size in pieces):
            raise BadLayer(f"{entry.name!r} has a negative size")
        self._done.size += sum(size for _, size in pieces)
        if self._done.size > self._done.most_bytes:
            raise BadLayer(f"the image is larger than {self._done.most_bytes / 2**30:.0f} GiB unpacked")
        source = cast("IO[bytes]", tar.fileobj)  # the stream itself: the pieces lie in it one after the other
        source.seek(entry.offset_data)
        handle = os.open(parts[-1], _NEW, 0o600, dir_fd=self._tree.parent(parts, make=True))
        try:
            for offset, size in pieces:
                _copy(source, handle, offset, size, entry.name)
            os.ftruncate(handle, entry.size)
            os.fchmod(handle, 0o555 if entry.mode & 0o111 else 0o444)
            # Compiled Python is valid only while its source has the time it was compiled at.
            time = max(0, min(int(entry.mtime), 2**33))
            os.utime(handle, (time, time))
        finally:
            os.close(handle)
        self._done.on_progress(self._done)

    def _hard_link(self, entry: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        source = self._parts(entry.linkname)
        if not source or source == parts:
            raise BadLayer(f"{entry.name!r} is a hard link to {entry.linkname!r}")
        real = os.dup(self._tree.parent(source))
        try:
            os.stat(source[-1], dir_fd=real, follow_symlinks=False)
            self._clear(parts)
            folder = self._tree.parent(parts, make=True)
            if is_folder(source[-1], real):  # also one that was a file until its own link was to lie in it
                raise BadLayer(f"{entry.name!r} is a hard link to the folder {entry.linkname!r}")
            os.link(source[-1], parts[-1], src_dir_fd=real, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(real)


def _copy(source: IO[bytes], handle: int, offset: int, size: int, name: str) -> None:
    os.lseek(handle, offset, os.SEEK_SET)
    while size:
        chunk = source.read(min(size, CHUNK))
        if not chunk:
            raise BadLayer(f"{name!r} ends too early")
        size -= len(chunk)
        _write(handle, chunk)


def _write(handle: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(handle, left) :]


def close_folders(root: str) -> None:
    """Folders become readable for everyone and writable for nobody; `root` itself stays open for a rename."""
    for folder, names, _ in os.walk(root, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.chmod(path, 0o555)
