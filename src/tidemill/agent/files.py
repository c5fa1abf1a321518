"""Opening files below a directory that a job may have filled with symbolic links."""

from __future__ import annotations

import os
import stat


def open_beneath(root: int, path: str, flags: int, mode: int = 0o644) -> int:
    """Opens the relative `path` below the directory descriptor `root` and nothing outside it: no `..`, no
    symbolic link at any step, only a regular file. Raises OSError or ValueError with the reason."""
    parts = [p for p in path.split("/") if p not in ("", ".")]
    if not parts or ".." in parts or path.startswith("/"):
        raise ValueError(f"{path!r} is not a path below the node's work directory")
    here = os.dup(root)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
        fd = os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=here)
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(f"{path!r} is not a regular file")
    os.set_blocking(fd, True)
    return fd


def found_without_links(root: int, path: str) -> int:
    """An O_PATH descriptor of what the relative `path` below the directory descriptor `root` names. Raises
    OSError or ValueError where a step of it is a symbolic link, or is not there."""
    here = os.dup(root)
    try:
        for part in path.split("/"):
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
            if stat.S_ISLNK(os.fstat(here).st_mode):
                raise ValueError(f"{part!r} is a symbolic link there")
    except (OSError, ValueError):
        os.close(here)
        raise
    return here


def size_beneath(root: int, path: str) -> int:
    """Bytes in the file; 0 while it is not there."""
    try:
        fd = open_beneath(root, path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def tail_beneath(root: int, path: str, limit: int) -> bytes:
    """The last `limit` bytes; b"" of what cannot be read."""
    try:
        fd = open_beneath(root, path, os.O_RDONLY)
    except (OSError, ValueError):
        return b""
    try:
        return os.pread(fd, limit, max(0, os.fstat(fd).st_size - limit))
    finally:
        os.close(fd)


def shorten_beneath(root: int, path: str, most: int, kept: int) -> bool:
    """A log with more than `most` bytes keeps its last `kept`, from the start of a line, under a line that
    says so. What others append meanwhile is kept; what cannot be shortened stays. -> whether it was."""
    try:
        fd = open_beneath(root, path, os.O_RDWR | os.O_APPEND)
    except (OSError, ValueError):
        return False
    try:
        size = os.fstat(fd).st_size
        if size <= most:
            return False
        tail = os.pread(fd, kept, size - kept)
        tail = tail[tail.find(b"\n") + 1 :]
        os.ftruncate(fd, 0)
        os.write(fd, b"[Tidemill has removed the older lines of this log]\n" + tail)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def read_beneath(root: int, path: str, offset: int, limit: int) -> bytes:
    """Up to `limit` bytes from `offset`; b"" past the end and for a file that is not there yet."""
    try:
        fd = open_beneath(root, path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, limit, offset)
    finally:
        os.close(fd)
