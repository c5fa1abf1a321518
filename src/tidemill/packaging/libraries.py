"""The shared libraries that programs of this host need, found as its loader finds them (ld.so(8))."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tidemill.packaging import elf
from tidemill.packaging.elf import Elf, NotElf

CONFIG = "/etc/ld.so.conf"
_USUAL = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")
# Opened by the C library when they are wanted, named in no header.
OPENED_LATE = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")


@dataclass(slots=True)
class Found:
    """`files`: name that is asked for -> path here, of all that lie outside of what is copied anyway.
    `missing`: name -> a file that needs it and would not have it. `loaders`: paths as programs name them."""

    files: dict[str, str] = field(default_factory=dict[str, str])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    loaders: set[str] = field(default_factory=set[str])


class Finder:
    """`inside`: whether a path is copied anyway, with everything around it, so that what is found there is
    found there again. `folders`: where the loader looks that no file names."""

    def __init__(
        self,
        inside: Callable[[str], bool],
        folders: Sequence[str] | None = None,
        *,
        program: Elf | None = None,
    ) -> None:
        self._inside = inside
        self._folders = tuple(folders if folders is not None else host_folders())
        self._kind = program.kind if program is not None else None
        self._inherited = program.rpath if program is not None else ()
        self._known: dict[str, Elf | None] = {}

    def closure(self, paths: Iterable[str], late: Sequence[str] = ()) -> Found:
        """Of programs and libraries, with what they need in turn. What is no ELF file, or one of another
        machine, needs nothing. `late`: names besides, that may be absent. Raises OSError."""
        found = Found()
        waiting = list(paths)
        for name in late:
            path = self._in(self._folders, name)
            if path:
                found.files[name] = path
                waiting.append(path)
        seen: set[str] = set()
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            read = self._read(path)
            if read is None:
                continue
            if read.interpreter:
                found.loaders.add(read.interpreter)
            for name in read.needed:
                there = self._find(path, read, name)
                if not there:
                    found.missing.setdefault(name, path)
                elif not self._inside(there) and found.files.setdefault(name, there) == there:
                    waiting.append(there)
        return found

    def folder_of(self, name: str) -> str:
        """Where the loader finds a library by itself, links resolved; "" where it does not."""
        path = self._in(self._folders, name)
        return os.path.dirname(os.path.realpath(path)) if path else ""

    def _find(self, path: str, read: Elf, name: str) -> str:
        if "/" in name:  # a path, which an image would not have
            return name if os.path.isfile(name) and self._inside(name) else ""
        own = read.runpath or (*read.rpath, *self._inherited)
        origin = os.path.dirname(os.path.realpath(path))
        folders = [_expanded(folder, origin) for folder in own]
        return self._in(folders, name) or self._in(self._folders, name)

    def _in(self, folders: Iterable[str], name: str) -> str:
        for folder in folders:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and self._read(path) is not None:
                return path
        return ""

    def _read(self, path: str) -> Elf | None:
        """None: nothing that this machine's programs load."""
        if path not in self._known:
            try:
                read = elf.read(path)
            except NotElf:
                read = None
            if read is not None and self._kind is not None and read.kind != self._kind:
                read = None
            self._known[path] = read
        return self._known[path]


def host_folders(config: str = CONFIG) -> tuple[str, ...]:
    """Where this host's loader looks: what its configuration says, then the usual folders."""
    return tuple(dict.fromkeys([*_configured(config, set()), *_USUAL]))


def _configured(path: str, seen: set[str]) -> list[str]:
    if path in seen:
        return []
    seen.add(path)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    folders: list[str] = []
    for line in lines:
        words = line.split("#")[0].split()
        if words[:1] == ["include"]:
            patterns = [os.path.join(os.path.dirname(path), word) for word in words[1:]]
            for pattern in patterns:
                for name in sorted(glob.glob(pattern)):
                    folders += _configured(name, seen)
        elif words and words[0].startswith("/"):
            folders.append(words[0])
    return folders


def _expanded(folder: str, origin: str) -> str:
    for name in ("$ORIGIN", "${ORIGIN}"):
        folder = folder.replace(name, origin)
    return os.path.normpath(folder)
