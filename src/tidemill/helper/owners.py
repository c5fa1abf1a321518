"""Trees that change hands: from the server to the user of a build, and back.

Both may be hostile, and have descriptors in the tree. So each file is looked at and given by one descriptor,
nothing is followed, and going up again proves that nobody moved the folder meanwhile. A tree of any depth
takes three descriptors.
"""

from __future__ import annotations

import contextlib
import os
import stat

from tidemill.sandbox import linux, uids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Look = Callable[[int, str, os.stat_result], None]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Moved(OSError):
    """Somebody moves folders in the tree while it is walked."""


def give(root: int, user: int, to: int, but: Sequence[str]) -> None:
    """The folder and what is in it, as far as it is `user`'s, but for what lies at its top under these names.
    Links stay whose they are; so does a file with several names: one of them may lie elsewhere."""

    def look(here: int, name: str, info: os.stat_result) -> None:
        _give(here, name, to, lambda now: now.st_uid == user and _is_alone(now))

    walk(root, look, but)
    os.fchown(root, to, to)


def take(root: int, ids: uids.Range, to: int) -> None:
    """The folder and all in it that belongs to one of a build's ids. Nobody has such a file elsewhere."""

    def theirs(info: os.stat_result) -> bool:
        return ids.first <= info.st_uid < ids.first + uids.SIZE

    walk(root, lambda here, name, info: _give(here, name, to, theirs) if theirs(info) else None)
    os.fchown(root, to, to)


def size(root: int) -> int:
    """Bytes on disk. Raises Moved, OSError."""
    total = 0

    def look(here: int, name: str, info: os.stat_result) -> None:
        nonlocal total
        total += info.st_blocks * 512

    walk(root, look)
    return total


def walk(root: int, look: Look, but: Sequence[str] = ()) -> None:
    """Calls `look(folder's descriptor, name, what it is)` for each file below, a folder after what is in it.
    Other file systems are not entered; what vanishes meanwhile counts nothing."""
    here = os.dup(root)
    device = os.fstat(root).st_dev
    left: list[tuple[tuple[int, int], Iterator[str], str]] = [(_id(here), _names(here, but), "")]
    try:
        while True:
            _, names, own = left[-1]
            name = next(names, None)
            if name is None:
                left.pop()
                if not left:
                    return
                here = _up(here, left[-1][0])
                with contextlib.suppress(FileNotFoundError):
                    look(here, own, os.stat(own, dir_fd=here, follow_symlinks=False))
                continue
            below = _enter(here, name, device, look)
            if below >= 0:
                os.close(here)
                here = below
                left.append((_id(here), _names(here), name))
    finally:
        os.close(here)


def _enter(here: int, name: str, device: int, look: Look) -> int:
    """A descriptor of a folder to walk; -1 of anything else, which was looked at."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        info = os.stat(name, dir_fd=here, follow_symlinks=False)
        if not stat.S_ISDIR(info.st_mode):
            look(here, name, info)
        elif info.st_dev == device:
            return os.open(name, _FOLDER, dir_fd=here)
    return -1


def _up(here: int, wanted: tuple[int, int]) -> int:
    above = os.open("..", _FOLDER, dir_fd=here)
    if _id(above) != wanted:
        os.close(above)
        raise Moved("a folder was moved while it was looked through")
    os.close(here)
    return above


def _names(folder: int, but: Sequence[str] = ()) -> Iterator[str]:
    return (name for name in os.listdir(folder) if name not in but)


def _id(folder: int) -> tuple[int, int]:
    info = os.fstat(folder)
    return info.st_dev, info.st_ino


def _is_alone(info: os.stat_result) -> bool:
    return stat.S_ISDIR(info.st_mode) or (stat.S_ISREG(info.st_mode) and info.st_nlink == 1)


def _give(here: int, name: str, to: int, whether: Callable[[os.stat_result], bool]) -> None:
    with contextlib.suppress(FileNotFoundError):
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        try:
            if whether(os.fstat(file)):
                linux.give(file, to)
        finally:
            os.close(file)
