"""Places for a job's outputs, and storing what it wrote once all its processes are gone.

A job owns its directory, so nothing in it is trusted: links that lead out of it, and things that are no
files, are left out and named in a note. Files are copied into the store, never moved: a job may hold a second
name of its file, and a stored file must not change. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.domain.plan import Place, PlannedOutput

if TYPE_CHECKING:
    from tidemill.data.blobstore import BlobStore

DEFAULT = "default"  # the SDK's own output: the job's artifacts, often empty
_MAX_NAMED = 5  # how many files a note names


@dataclass(frozen=True, slots=True)
class Stored:
    """`files`: (path below the place, bytes), in order of path. `notes`: sentences for the time line."""

    files: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.files)


def prepare_outputs(outputs: Sequence[PlannedOutput], directory: Path) -> dict[str, str]:
    """Makes `directory`/NAME for each -> what `${{outputs.NAME}}` becomes: a folder, the path of a file to be
    written, or the URI itself for mode "direct"."""
    directory.mkdir(parents=True, exist_ok=True)
    values: dict[str, str] = {}
    for output in outputs:
        if output.mode == "direct":
            values[output.name] = output.uri
            continue
        folder = directory / output.name
        folder.mkdir(exist_ok=True)
        values[output.name] = str(_written(output, folder))
    return values


def kept(outputs: Sequence[PlannedOutput], succeeded: bool) -> tuple[PlannedOutput, ...]:
    """Those that are stored when a job has ended. On Azure what is written to a mounted output is in storage
    as it is written, so that checkpoints survive a failure; an upload is made when it has succeeded."""
    modes = ("rw_mount", "upload") if succeeded else ("rw_mount",)
    return tuple(output for output in outputs if output.mode in modes)


def collect_outputs(
    blobs: BlobStore, outputs: Sequence[PlannedOutput], directory: Path, succeeded: bool
) -> dict[str, Stored]:
    """Stores what lies below `directory`/NAME at the place of each output that is `kept`. What is missing is
    said only of a job that `succeeded`. Raises OutOfSpace."""
    return {
        output.name: _collect_output(blobs, output, directory, succeeded)
        for output in kept(outputs, succeeded)
    }


def collect_logs(blobs: BlobStore, artifacts: Place, logs: Path) -> tuple[tuple[str, int], ...]:
    """Stores the log folder below `artifacts.path` -> (path, bytes) of each file. Raises OutOfSpace."""
    return _store_tree(blobs, artifacts, logs, logs.parent, "Logs").files


def collect_artifacts(blobs: BlobStore, artifacts: Place, working_directory: Path, root: Path) -> Stored:
    """What Azure ML keeps without being asked: `./outputs` and `./logs` of the working directory."""
    files: list[tuple[str, int]] = []
    notes: list[str] = []
    for name in ("outputs", "logs"):
        place = Place(artifacts.account, artifacts.container, f"{_prefix(artifacts.path)}{name}/")
        stored = _store_tree(blobs, place, working_directory / name, root, f"./{name}")
        files.extend((f"{name}/{path}", size) for path, size in stored.files)
        notes.extend(stored.notes)
    return Stored(tuple(files), tuple(notes))


def _collect_output(blobs: BlobStore, output: PlannedOutput, directory: Path, say_missing: bool) -> Stored:
    folder = directory / output.name
    what = f"Output {output.name!r}"
    if output.type != "uri_file":
        stored = _store_tree(blobs, output.place, folder, directory.parent, what)
        if say_missing and not stored.files and not stored.notes and output.name != DEFAULT:
            return Stored(notes=(f"{what} is empty: the job wrote nothing to its folder.",))
        return stored
    written = _written(output, folder)
    if _through_link(written, directory.parent) or written.is_symlink():
        return Stored(notes=(f"{what} was not stored: it is a link.",))
    if not written.is_file() and not say_missing:
        return Stored()
    if not written.is_file():
        return Stored(notes=(f"{what} was not stored: the job wrote no file at {written}.",))
    _readable(written)
    place = output.place
    info = blobs.put_file(place.account, place.container, place.path.rstrip("/"), written)
    return Stored(((info.name.rsplit("/", 1)[-1], info.size),))


def _written(output: PlannedOutput, folder: Path) -> Path:
    if output.type != "uri_file":
        return folder
    return folder / (output.place.path.rstrip("/").rsplit("/", 1)[-1] or output.name)


def _store_tree(blobs: BlobStore, place: Place, folder: Path, root: Path, what: str) -> Stored:
    if _through_link(folder, root):
        return Stored(notes=(f"{what} was not stored: the folder was replaced by a link.",))
    if not folder.is_dir():
        return Stored()
    left_out: list[str] = []
    _unlock(folder)
    prefix = _prefix(place.path)
    infos = blobs.put_tree(
        place.account,
        place.container,
        prefix,
        folder,
        skipped=lambda path, reason: left_out.append(f"{path} ({reason})"),
    )
    files = tuple(sorted((info.name[len(prefix) :], info.size) for info in infos))
    return Stored(files, _left_out_notes(what, left_out))


def _unlock(folder: Path) -> None:
    """Gives back the read bits a job took from its own files."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if not path.is_symlink():
                _readable(path)


def _readable(path: Path) -> None:
    """A server that is not root needs the bits itself."""
    wanted = 0o500 if path.is_dir() else 0o400
    mode = stat.S_IMODE(path.lstat().st_mode)
    if mode & wanted != wanted:
        path.chmod(mode | wanted)


def _through_link(path: Path, root: Path) -> bool:
    """Whether a link stands anywhere between `root` and `path`."""
    current = root
    for part in path.relative_to(root).parts:
        current = current / part
        if current.is_symlink():
            return True
    return False


def _prefix(path: str) -> str:
    return path if not path or path.endswith("/") else path + "/"


def _left_out_notes(what: str, left_out: Sequence[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    named = ", ".join(left_out[:_MAX_NAMED])
    more = f" and {len(left_out) - _MAX_NAMED} more" if len(left_out) > _MAX_NAMED else ""
    return (f"{what}: not stored: {named}{more}.",)
