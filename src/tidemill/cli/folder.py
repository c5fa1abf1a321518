"""The files of a folder that is uploaded: those that azure-ai-ml finds there. It follows links, also out of
the folder, and asks an ignore file where a file really lies (`get_upload_files_from_folder` in its
`_utils/_asset_utils.py`); a link back to a folder that it lies in it follows until the kernel refuses, which
is left out here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Excluded = Callable[[str], bool]


@dataclass(slots=True)
class Contents:
    """`files`: each with its path below the folder. `out`: the links that lead out of it, of those that a
    file is reached by, and where to. `loops`: links that are left out."""

    files: list[tuple[Path, str]] = field(default_factory=list[tuple[Path, str]])
    out: dict[str, str] = field(default_factory=dict[str, str])
    loops: list[str] = field(default_factory=list[str])
    _stamps: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def stamp(self) -> None:
        """Notes what the files are now, for `changed`. Raises OSError."""
        self._stamps = [_stamp(file) for file, _ in self.files]

    def changed(self) -> str:
        """A file that is another than when they were stamped; "" for none. Raises OSError."""
        pairs = zip(self.files, self._stamps, strict=True)
        return next((str(file) for (file, _), before in pairs if _stamp(file) != before), "")

    def link_to(self, path: str) -> str:
        """The link out of the folder by which a file was reached; "" for none."""
        for file, name in self.files:
            if str(file) == path:
                return next((link for link in self.out if f"{name}/".startswith(f"{link}/")), "")
        return ""


def contents_of(root: Path, excluded: Excluded) -> Contents:
    """Every file that is not ignored. A file: itself."""
    found = Contents()
    if root.is_file():
        found.files.append((root.resolve(), root.name))
    else:
        real = os.path.realpath(root)
        _Walk(real, excluded, found).folder(real, "", ())
    return found


def leads_back(real: str, above: tuple[str, ...]) -> bool:
    """Whether a link to `real` leads to one of the folders that it was reached through (real paths), or
    above one, where they are met again."""
    inside = real.rstrip("/") + "/"
    return any(f"{folder}/".startswith(inside) for folder in above)


def _stamp(file: Path) -> tuple[int, int]:
    info = file.stat()
    return info.st_size, info.st_mtime_ns


class _Walk:
    def __init__(self, root: str, excluded: Excluded, found: Contents) -> None:
        self._root, self._excluded, self._found = root, excluded, found

    def folder(self, real: str, below: str, above: tuple[str, ...]) -> None:
        """`above`: the folders that it was reached through. One that cannot be read counts as empty."""
        try:
            with os.scandir(real) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return
        through = (*above, real)
        for entry in listed:
            name = below + entry.name
            path = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            before = len(self._found.files)
            if os.path.isfile(path):
                if not self._excluded(os.path.relpath(entry.path, self._root)):
                    self._found.files.append((Path(path), name))
            elif os.path.isdir(path):
                if entry.is_symlink() and leads_back(path, through):
                    self._found.loops.append(name)
                else:
                    self.folder(path, f"{name}/", through)
            leaves = self._inside(real) and not self._inside(path)
            if leaves and len(self._found.files) > before:
                self._found.out[name] = path

    def _inside(self, real: str) -> bool:
        return f"{real}/".startswith(self._root.rstrip("/") + "/")
