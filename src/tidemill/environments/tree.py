"""The files of an environment: made read-only, measured, removed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tidemill.domain.errors import InvalidRequest

_DEEPEST = 2000  # characters of a path below an environment
_SLOW_S = 600.0


def make_read_only(root: Path) -> int:
    """Files become 0444 (0555 where executable), directories below `root` 0555; returns the size in bytes.

    Everyone may read: jobs run as another user. `root` itself is left writable for the rename. What is no
    file, folder or link is removed, and everything is this process's own.
    """
    size = 0
    for directory, names, files in os.walk(root, topdown=False):
        for name in files:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            if info.st_uid != os.geteuid():
                os.lchown(path, os.geteuid(), os.getegid())
            if stat.S_ISLNK(info.st_mode):
                continue
            if not stat.S_ISREG(info.st_mode):
                os.unlink(path)
                continue
            size += info.st_size
            os.chmod(path, 0o555 if info.st_mode & 0o111 else 0o444)
        for name in names:
            path = os.path.join(directory, name)
            if os.lstat(path).st_uid != os.geteuid():
                os.lchown(path, os.geteuid(), os.getegid())
            if not os.path.islink(path):
                os.chmod(path, 0o555)
    return size


def check(root: Path) -> None:
    """Raises InvalidRequest for a tree that other people's code has left so that it cannot be kept: none, a
    link in its place, folders that nobody may list, paths without an end."""

    def refuse(problem: object) -> InvalidRequest:
        return InvalidRequest(
            f"A package that was built from source left its environment in disorder: {problem}.",
            "EnvironmentBuildFailed",
            "properties.condaFile",
        )

    def failed(error: OSError) -> None:
        raise refuse(error.strerror or error)

    if not stat.S_ISDIR(os.lstat(root).st_mode):
        raise refuse("it is no folder any more")
    os.chmod(root, 0o755)
    for directory, names, _ in os.walk(root, onerror=failed):
        if len(directory) - len(str(root)) > _DEEPEST:
            raise refuse(f"folders in folders, more than {_DEEPEST} characters deep")
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755)


def give(root: Path, uid: int, but: Sequence[str]) -> None:
    """Makes a tree somebody's own, except what lies at its top under these names. Nobody else may be writing
    to it."""
    os.lchown(root, uid, uid)
    for directory, names, files in os.walk(root):
        if directory == str(root):
            names[:] = [name for name in names if name not in but]
        for name in (*names, *files):
            os.lchown(os.path.join(directory, name), uid, uid)


def read_text(folder: Path, name: str, limit: int) -> str:
    """Of a file that other people's code may have put there: no link is followed, nothing waited for. Raises
    InvalidRequest where it is none, or longer than `limit` bytes."""
    problem = f"A package that was built from source left no {name} that can be read"
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        finally:
            os.close(place)
        with open(file, "rb") as handle:
            plain = stat.S_ISREG(os.fstat(file).st_mode)
            data = handle.read(limit + 1) if plain else b""
    except OSError as error:
        raise InvalidRequest(f"{problem}: {error.strerror}.", "EnvironmentBuildFailed") from error
    if not plain or len(data) > limit:
        raise InvalidRequest(f"{problem}: it is no file of at most {limit} bytes.", "EnvironmentBuildFailed")
    return data.decode("utf-8", "replace")


def replace_file(path: Path, text: str) -> None:
    """Whatever is there goes; nothing is followed. Its folder is ours."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    path.unlink(missing_ok=True)
    path.write_text(text, "utf-8")


def replace_whole(path: Path, text: str) -> None:
    """A file that is there with this text, or as it was before."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text, "ascii")
    os.replace(new, path)


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
    """Removes a tree even where its directories are read-only, or closed, or deeper than a path may be long.
    An absent one is fine."""
    if not os.path.lexists(root):
        return
    try:
        os.chmod(root, 0o700)
        for directory, names, _ in os.walk(root):
            names[:] = [name for name in names if not os.path.islink(os.path.join(directory, name))]
            for name in names:
                os.chmod(os.path.join(directory, name), 0o700)
        shutil.rmtree(root)
    except (OSError, RecursionError):  # coreutils walk by descriptors
        for argv in (["chmod", "-R", "u+rwx", "--", str(root)], ["rm", "-rf", "--", str(root)]):
            subprocess.run(argv, check=False, capture_output=True, timeout=_SLOW_S)
        if os.path.lexists(root):
            raise
