"""Generation files: the bytes of blobs, each written once under a name of its own.

A file is made under its final name and means nothing until a row names it, so no rename is needed. Names
are time-ordered and files of about 17 minutes share a directory: many small writes then share its fsync, and
a sweep looks only at directories that changed. Whoever writes a file holds an flock on it until its row is
committed; a sweep leaves locked files alone, whichever process holds them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill.data.blobindex import free_bytes, no_space, out_of_space
from tidemill.domain.errors import InvalidRequest, NotFound

HASH_UP_TO = 64 << 20  # an MD5 of a local file is computed up to this size: above it clients do not either
RESERVE = 4 << 20  # bytes left free for the index, so that a full disk can still be cleaned up
_COPY = 64 << 20
_HASH = 1 << 20
_BUCKET = 6  # leading digits of a generation that name its directory
_CANNOT_CLONE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


class Upload:
    """A generation file that is being written; ends with `close()` (its row is committed) or `discard()`."""

    __slots__ = ("_hash", "fd", "generation", "path", "size")

    def __init__(self, path: Path, fd: int, hashed: bool = True) -> None:
        self.path = path
        self.generation = path.name
        self.fd = fd
        self.size = 0
        self._hash = hashlib.md5(usedforsecurity=False) if hashed else None

    @property
    def directory(self) -> Path:
        return self.path.parent

    @property
    def md5(self) -> bytes | None:
        """Of what was passed to `write`; None when bytes came in by `append_range`."""
        return self._hash.digest() if self._hash else None

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        with out_of_space(self.directory):
            for chunk in chunks:
                if self._hash:
                    self._hash.update(chunk)
                self.size += write_all(self.fd, chunk)

    def append_range(self, source: int, offset: int, length: int) -> None:
        """Copies bytes of an open file inside the kernel (a reflink where the file system can)."""
        self._hash = None
        with out_of_space(self.directory):
            copy_range(source, offset, self.fd, self.size, length)
        self.size += length

    def sync(self) -> None:
        with out_of_space(self.directory):
            os.fsync(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()


class GenerationFiles:
    """The directory of generation files. `new_id` gives time-ordered names (23 hex digits)."""

    def __init__(self, root: Path, new_id: Callable[[], str]) -> None:
        self.root = root
        self._new_id = new_id
        root.mkdir(parents=True, exist_ok=True)

    def path(self, generation: str) -> Path:
        return self.root / generation[:_BUCKET] / generation

    def new_path(self) -> Path:
        """A name that is free, in a directory that exists."""
        path = self.path(self._new_id())
        with out_of_space(self.root):
            path.parent.mkdir(mode=0o755, exist_ok=True)
        return path

    def create(self, expected: int = 0, hashed: bool = True) -> Upload:
        """Raises OutOfSpace at once where `expected` bytes cannot fit."""
        if expected and expected + RESERVE > free_bytes(self.root):
            raise no_space(self.root)
        while True:
            path = self.new_path()
            try:
                with out_of_space(self.root):
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:  # a sweep removed the empty directory in between
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            return Upload(path, fd, hashed)

    def adopt(self, linked: Path, size: int) -> Upload:
        """Locks a file that was linked or moved to one of our names."""
        fd = os.open(linked, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(fd, fcntl.LOCK_SH)
        upload = Upload(linked, fd, hashed=False)
        upload.size = size
        return upload

    def link(self, generation: str, size: int) -> Upload:
        """A second name for immutable bytes: a copy that costs nothing. FileNotFoundError when it is gone."""
        source = self.path(generation)
        path = self.new_path()
        os.link(source, path)
        return self.adopt(path, size)

    def take(self, path: Path, move: bool) -> tuple[Upload, bytes | None]:
        """A copy of a regular file, or with `move` a second link to it where the file system can: the caller
        unlinks the old name after the commit, so a kill loses nothing. -> (upload, MD5 up to HASH_UP_TO)."""
        fd, status = open_source(path)
        try:
            upload = self._linked(path, status.st_size) if move and status.st_nlink == 1 else None
            if upload is None:
                upload = self.create(status.st_size)
                with discarded_on_error(upload):
                    upload.append_range(fd, 0, status.st_size)
            with discarded_on_error(upload):
                return upload, md5_of(upload.fd, upload.size) if upload.size <= HASH_UP_TO else None
        finally:
            os.close(fd)

    def joined(self, segments: list[tuple[Path, int, int]]) -> Upload:
        """One file of all (file, offset, size); a single whole file is linked instead. FileNotFoundError
        where one is gone."""
        if len(segments) == 1 and segments[0][1] == 0:
            path, _, size = segments[0]
            if path.stat().st_size == size:
                return self.link(path.name, size)
        return self.copied(segments)

    def copied(self, segments: list[tuple[Path, int, int]]) -> Upload:
        upload = self.create(sum(size for _, _, size in segments), hashed=not segments)
        with discarded_on_error(upload):
            for path, offset, size in segments:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    upload.append_range(fd, offset, size)
                finally:
                    os.close(fd)
        return upload

    def _linked(self, path: Path, size: int) -> Upload | None:
        target = self.new_path()
        try:
            os.link(path, target, follow_symlinks=False)
        except OSError:
            return None
        if os.geteuid() == 0:
            os.chown(target, 0, 0)
        os.chmod(target, 0o644)
        return self.adopt(target, size)

    def remove(self, generations: Iterable[str]) -> None:
        for generation in generations:
            self.path(generation).unlink(missing_ok=True)

    def sweep(self, used: Callable[[str], bool], since: float, before: float) -> tuple[int, float | None]:
        """Removes files that no row names, written before `before` (Unix seconds) and locked by nobody;
        looks only at directories changed since `since`. -> (how many were removed, since when the next sweep
        must look at least, where something was left for it)."""
        removed = 0
        left: float | None = None
        for bucket in os.scandir(self.root):
            changed = bucket.stat().st_mtime
            if not bucket.is_dir(follow_symlinks=False) or changed < since:
                continue
            for entry in os.scandir(bucket.path):
                if used(entry.name):
                    continue
                if _remove_orphan(entry.path, entry.name, used, before):
                    removed += 1
                else:
                    left = changed if left is None else min(left, changed)
            if changed < before:
                _remove_empty(bucket.path)
        return removed, left


def _remove_orphan(path: str, name: str, used: Callable[[str], bool], before: float) -> bool:
    """-> False where it must be looked at again."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if os.fstat(fd).st_mtime >= before:
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not used(name):  # else its row was committed between the first look and the lock
            os.unlink(path)
        return True
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    finally:
        os.close(fd)


def _remove_empty(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def write_all(fd: int, data: bytes | memoryview) -> int:
    """Writes every byte; -> how many."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.write(fd, view[done:])
    return done


def copy_range(source: int, offset: int, target: int, at: int, length: int) -> None:
    """Copies `length` bytes between open files. Raises OSError(EIO) if the source is shorter."""
    left = length
    while left:
        try:
            moved = os.copy_file_range(source, target, min(left, _COPY), offset, at)
        except OSError as error:
            if error.errno not in _CANNOT_CLONE:
                raise
            data = os.pread(source, min(left, _HASH), offset)
            moved = 0
            while moved < len(data):
                moved += os.pwrite(target, data[moved:], at + moved)
        if moved == 0:
            raise OSError(errno.EIO, f"the file ends {left} bytes too early")
        offset, at, left = offset + moved, at + moved, left - moved


def md5_of(fd: int, size: int) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    offset = 0
    while offset < size:
        chunk = os.pread(fd, min(_HASH, size - offset), offset)
        if not chunk:
            break
        digest.update(chunk)
        offset += len(chunk)
    return digest.digest()


def open_source(path: Path) -> tuple[int, os.stat_result]:
    """Opens a regular file for reading, without following a link and without waiting for a pipe. Raises
    NotFound, or InvalidRequest for anything else than a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}.", "PathNotFound") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
            raise _no_file(path) from error
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise _no_file(path)
    return fd, status


@contextmanager
def discarded_on_error(upload: Upload) -> Iterator[None]:
    try:
        yield
    except BaseException:
        upload.discard()
        raise


def _no_file(path: Path) -> InvalidRequest:
    return InvalidRequest(f"{path} is not a regular file, so it cannot be stored.", "NotAFile")
