"""The files of an environment: made read-only, measured, removed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from pathlib import Path


def make_read_only(root: Path) -> int:
    """Files become 0444 (0555 where executable), directories below `root` 0555; returns the size in bytes.

    Everyone may read: jobs run as another user. `root` itself is left writable for the rename.
    """
    size = 0
    for directory, names, files in os.walk(root, topdown=False):
        for name in files:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                continue
            size += info.st_size
            os.chmod(path, 0o555 if info.st_mode & 0o111 else 0o444)
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o555)
    return size


def sync_file_system(directory: Path) -> None:
    """Everything written so far to the file system of `directory` is on disk when this returns (syncfs)."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(handle)


def sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def remove_tree(root: Path) -> None:
    """Removes a tree even where its directories are read-only. An absent one is fine."""
    if not root.exists():
        return
    for directory, names, _ in os.walk(root):
        os.chmod(directory, 0o700)
        names[:] = [name for name in names if not os.path.islink(os.path.join(directory, name))]
    shutil.rmtree(root, ignore_errors=False)
