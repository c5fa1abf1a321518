"""A tree that is worked on as if it were `/`: nothing named in it ever reaches outside.

Every step is an openat of one name that follows no link; links are read and followed here, with the tree's
root as the end of every `..` and the start of every absolute target, which is what they will mean to whoever
has the tree as its root.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress

MOST_LINKS = 40
MOST_PATH = 3000  # bytes of a real path below the root: longer ones could not be removed by their names
MOST_DEEP = 200
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Outside(ValueError):
    """A name that leads out of the tree, or round in circles."""


class Tree:
    """`with Tree(path) as tree`. `path` itself is opened once and never looked up again."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._root = -1
        self._kept: tuple[tuple[str, ...], int] | None = None  # the folder that was opened last

    def __enter__(self) -> Tree:
        self._root = os.open(self._path, FOLDER)
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
        os.close(self._root)

    def forget(self) -> None:
        """What leads to a folder may have changed."""
        if self._kept is not None:
            os.close(self._kept[1])
            self._kept = None

    def parent(self, parts: tuple[str, ...], make: bool = False) -> int:
        """A descriptor of the folder that holds `parts[-1]`, links on the way followed. It is the tree's own:
        do not close it, and use it before the next call. `make`: absent folders are made; what is in the
        way and no folder gives way. Raises Outside, FileNotFoundError, NotADirectoryError."""
        return self._folder(parts[:-1], make)

    def _folder(self, parts: tuple[str, ...], make: bool) -> int:
        if self._kept is not None and self._kept[0] == parts:
            return self._kept[1]
        self.forget()
        handle = self._walk(list(parts), make)
        self._kept = (parts, handle)
        return handle

    def _walk(self, wanted: list[str], make: bool) -> int:
        here = [os.dup(self._root)]  # the folders from the root to where we are
        lengths, links = [0], 0
        try:
            while wanted:
                name = wanted.pop(0)
                if name == "..":
                    if len(here) > 1:
                        os.close(here.pop())
                    continue
                lengths = lengths[: len(here)]
                lengths.append(lengths[-1] + len(name.encode()) + 1)
                if lengths[-1] > MOST_PATH or len(here) > MOST_DEEP:
                    raise Outside(f"it lies deeper than {MOST_DEEP} folders or {MOST_PATH} bytes")
                try:
                    here.append(os.open(name, FOLDER, dir_fd=here[-1]))
                    continue
                except FileNotFoundError:
                    if not make:
                        raise
                    os.mkdir(name, 0o755, dir_fd=here[-1])
                except OSError as error:
                    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
                    target = self._link(name, here[-1])
                    if target is not None:
                        links += 1
                        if links > MOST_LINKS:
                            raise Outside(f"more than {MOST_LINKS} links lead to {name!r}") from None
                        while target.startswith("/") and len(here) > 1:
                            os.close(here.pop())
                        wanted[:0] = split(target)
                        continue
                    if not make:
                        raise
                    os.unlink(name, dir_fd=here[-1])
                    os.mkdir(name, 0o755, dir_fd=here[-1])
                here.append(os.open(name, FOLDER, dir_fd=here[-1]))
            return os.dup(here[-1])
        finally:
            for handle in here:
                os.close(handle)

    @staticmethod
    def _link(name: str, folder: int) -> str | None:
        try:
            return os.readlink(name, dir_fd=folder)
        except OSError:
            return None

    # --- what is there

    def find(self, path: str) -> str | None:
        """A path for the same thing whose last part is no link ("/bin/dash" for "/bin/sh"); None where
        nothing is."""
        parts, links = tuple(split(path)), 0
        while parts:
            try:
                folder = self.parent(parts)
                target = self._link(parts[-1], folder) if parts[-1] != ".." else None
                if target is None:
                    if parts[-1] != "..":
                        os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
                    return "/" + "/".join(parts)
            except (OSError, Outside):
                return None
            links += 1
            if links > MOST_LINKS:
                return None
            start = () if target.startswith("/") else parts[:-1]
            parts = (*start, *split(target))
        return "/"

    def names(self, path: str) -> list[str]:
        """What a folder holds, sorted; [] where there is none."""
        try:
            return sorted(os.listdir(self._folder(tuple(split(path)), make=False)))
        except (OSError, Outside):
            return []

    def executable(self, path: str) -> bool:
        """Whether `path` is, in the end, a program."""
        real = self.find(path)
        if real is None or real == "/":
            return False
        parts = tuple(split(real))
        with suppress(OSError, Outside):
            found = os.stat(parts[-1], dir_fd=self.parent(parts), follow_symlinks=False)
            return stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o111)
        return False

    # --- changing it

    def remove(self, parts: tuple[str, ...]) -> None:
        """Whatever is there, the link itself and not what it names. An absent one is fine."""
        with suppress(FileNotFoundError, NotADirectoryError):
            folder = self.parent(parts)
            if not is_folder(parts[-1], folder):
                os.unlink(parts[-1], dir_fd=folder)
                return
            self.forget()
            folder = self.parent(parts)
            shutil.rmtree(parts[-1], dir_fd=folder)

    def make_folder(self, path: str) -> None:
        """A real folder at `path`, and every part of it: what is in the way, links included, gives way."""
        self.forget()
        handle = os.dup(self._root)
        try:
            for name in split(path):
                if not is_folder(name, handle):
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=handle)
                    os.mkdir(name, 0o755, dir_fd=handle)
                inner = os.open(name, FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
        finally:
            os.close(handle)

    def write(self, path: str, text: str) -> None:
        """A new file in place of what is there; folders may be links, the file itself is none."""
        parts = tuple(split(path))
        self.parent(parts, make=True)
        self.remove(parts)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(parts[-1], flags, 0o644, dir_fd=self.parent(parts)), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o444)
            file.write(text)


def is_folder(name: str, folder: int) -> bool:
    """Of the name itself: a link to a folder is none."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def split(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
