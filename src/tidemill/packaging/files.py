"""The files of a layer: what lies where in the image, and how it gets there. Paths in an image have no slash
at their beginning; what is copied belongs to root there and nobody can write to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DIRECTORY, FILE, LINK = "directory", "file", "link"
Rewrite = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """Of a file: `source` (a path here) or `data`; `rewrite` makes of its bytes those of the image.
    `target`: of a link."""

    kind: str
    mode: int
    source: str = ""
    data: bytes = b""
    target: str = ""
    rewrite: Rewrite | None = None
    owner: int = 0


Files = dict[str, Entry]
FOLDER = Entry(DIRECTORY, 0o755)


def text(content: str, mode: int = 0o644) -> Entry:
    return Entry(FILE, mode, data=content.encode())


def link(target: str) -> Entry:
    return Entry(LINK, 0o777, target=target)


def copied(path: str, rewrite: Rewrite | None = None) -> Entry:
    """A regular file from here; what it is a link to. Raises OSError."""
    executable = os.stat(path).st_mode & 0o111
    return Entry(FILE, 0o755 if executable else 0o644, source=path, rewrite=rewrite)


def is_bytecode(below: str) -> bool:
    """Of a path: a folder that Python fills by itself, and as it likes."""
    return below.rpartition("/")[2] == "__pycache__"


def walk(root: str, skip: Callable[[str], bool] = lambda _: False) -> Iterator[tuple[str, str]]:
    """Files, links and empty folders below `root` as (path below it, path here), in the order of their names.
    `skip`: of a path below it, with everything in it. Raises OSError."""
    yield from _walk(root, "", skip)


def _walk(root: str, below: str, skip: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    with os.scandir(os.path.join(root, below)) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    if not found and below:
        yield below, os.path.join(root, below)
    for entry in found:
        path = f"{below}/{entry.name}" if below else entry.name
        if skip(path):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, path, skip)
        else:
            yield path, entry.path


def entry_of(root: str, path: str, rewrite: Rewrite | None = None, *, follow: bool = False) -> Entry | None:
    """What a path below `root` becomes: links that stay inside `root` are kept. Others are left out: whoever
    made them may have meant a file of the server. `follow`: they become what they lead to, for trees that
    are the host's own. None: nothing that belongs into an image (a pipe, such a link). Raises OSError."""
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
        return FOLDER
    if stat.S_ISLNK(mode):
        target = os.readlink(path)
        real = os.path.realpath(path)
        inside = real.startswith(os.path.realpath(root) + os.sep)
        if inside and not os.path.isabs(target) and os.path.lexists(real):
            return link(target)
        return copied(path, rewrite) if (inside or follow) and os.path.isfile(path) else None
    return copied(path, rewrite) if stat.S_ISREG(mode) else None


def tree(root: str, place: str, skip: Callable[[str], bool] = lambda _: False) -> Files:
    """Everything below `root`, at `place` in the image. Raises OSError."""
    files: Files = {place: FOLDER}
    for below, path in walk(root, skip):
        entry = entry_of(root, path)
        if entry is not None:
            files[f"{place}/{below}"] = entry
    return files


def whole(root: str) -> Files:
    """Everything of a root file system, its links as they are: nobody follows them here. Raises OSError."""
    files: Files = {}
    for below, path in walk(root):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            files[below] = link(os.readlink(path))
        elif stat.S_ISDIR(mode):
            files[below] = FOLDER
        elif stat.S_ISREG(mode):
            files[below] = copied(path)
    return files | {name: Entry(DIRECTORY, 0o1777) for name in ("tmp", "var/tmp")}


def with_parents(files: Files) -> Files:
    """With the folders above everything, which are there before it: in the order of names."""
    whole: Files = {}
    for path in sorted(files, key=lambda path: path.split("/")):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            whole.setdefault("/".join(parts[:depth]), FOLDER)
        whole[path] = files[path]
    return whole
