"""Bringing inputs and code into an attempt's directory: always a copy, never a path into the store.

Everything here blocks: call it in a thread. Every function can be repeated: what a staging that died half-way
left behind is replaced.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tidemill.data.blobtree import safe_parts
from tidemill.data.tableparts import bring_parts
from tidemill.domain.errors import InvalidRequest, NotFound, NotOffered, OutOfSpace
from tidemill.domain.plan import Place, PlannedInput

if TYPE_CHECKING:
    from tidemill.data.blobstore import BlobStore

MLTABLE = "mltable"
FOLDER_TYPES = ("uri_folder", MLTABLE)
EVALUATED = ("eval_mount", "eval_download")
MAX_DOWNLOAD = 50 * 2**30
TIMEOUT_S = 60.0
TRIES = 3
_CHUNK = 1 << 20

Going = Callable[[], None]
"""Called now and then while bytes are moved; raises Stopped to end it."""


class Stopped(Exception):
    """The staging is not wanted any more."""


def _on() -> None: ...


@dataclass(frozen=True, slots=True)
class StagedInputs:
    """`values`: what `${{inputs.NAME}}` becomes, a path or a literal. `notes`: for the time line."""

    values: dict[str, str]
    notes: tuple[str, ...]
    copied_bytes: int


def stage_inputs(
    blobs: BlobStore, inputs: Sequence[PlannedInput], directory: Path, going: Going = _on
) -> StagedInputs:
    """Puts every input below `directory`/NAME. Raises NotFound, InvalidRequest, NotOffered or OutOfSpace."""
    values: dict[str, str] = {}
    copied = 0
    mounted: list[str] = []
    for item in inputs:
        if item.literal is not None:
            values[item.name] = item.literal
        elif item.mode == "direct":
            values[item.name] = item.uri or item.url
        else:
            path, size = _stage(blobs, item, directory / item.name, going)
            values[item.name] = str(path)
            copied += size
            if item.mode in ("ro_mount", "rw_mount"):
                mounted.append(item.name)
            if item.mode == "ro_mount":
                _make_read_only(directory / item.name)
    gathered = [item.name for item in inputs if item.parts and item.mode != "direct"]
    return StagedInputs(values, _notes(mounted, gathered), copied)


def stage_code(blobs: BlobStore, place: Place, directory: Path, going: Going = _on) -> int:
    """The code folder becomes `directory`. -> bytes copied. Raises NotFound when nothing is stored there."""
    clear(directory)
    if _is_file(blobs, place):
        directory.mkdir(parents=True)
        target = directory / safe_parts(place.path.rsplit("/", 1)[-1])[0]
        return blobs.copy_out(place.account, place.container, place.path, target, going=going)
    return _copy_folder(blobs, place, directory, "The code folder", going)


def _stage(blobs: BlobStore, item: PlannedInput, directory: Path, going: Going) -> tuple[Path, int]:
    if item.mode in EVALUATED:
        raise NotOffered(
            f"Input {item.name!r} has mode {item.mode!r}, which Tidemill does not offer. Use ro_mount."
        )
    clear(directory)
    if item.place is None:
        target = directory / _file_name(item.url)
        directory.mkdir(parents=True)
        return target, download(item.url, target, going=going)
    if item.type not in FOLDER_TYPES and _is_file(blobs, item.place):
        directory.mkdir(parents=True)
        target = directory / safe_parts(item.place.path.rsplit("/", 1)[-1])[0]
        size = blobs.copy_out(item.place.account, item.place.container, item.place.path, target, going=going)
        return target, size
    if item.type == "uri_file":
        raise NotFound(f"Input {item.name!r}: there is no file at {item.given}.", "InputNotFound", item.name)
    if item.may_be_empty and not stored_below(blobs, item.place):
        directory.mkdir(parents=True)
        return directory, 0
    size = _copy_folder(blobs, item.place, directory, f"Input {item.name!r} ({item.given})", going)
    return directory, size + bring_parts(blobs, item, directory, going)


def _copy_folder(blobs: BlobStore, place: Place, directory: Path, what: str, going: Going) -> int:
    prefix = _folder(place)
    if not stored_below(blobs, place):
        raise NotFound(f"{what}: nothing is stored below {place.container}/{prefix}.", "InputNotFound")
    directory.mkdir(parents=True, exist_ok=True)
    return blobs.copy_out(place.account, place.container, prefix, directory, going=going)


def stored_below(blobs: BlobStore, place: Place) -> bool:
    """Whether anything lies in that folder."""
    return bool(blobs.list(place.account, place.container, _folder(place), limit=1).blobs)


def _folder(place: Place) -> str:
    return place.path if not place.path or place.path.endswith("/") else place.path + "/"


def _is_file(blobs: BlobStore, place: Place) -> bool:
    return bool(place.path) and blobs.get(place.account, place.container, place.path) is not None


def _notes(mounted: Sequence[str], gathered: Sequence[str]) -> tuple[str, ...]:
    notes: list[str] = []
    if mounted:
        names = ", ".join(mounted)
        notes.append(f"Copied instead of mounted: {names}. Changes to the copy do not reach the stored data.")
    if gathered:
        notes.append(
            f"Of {', '.join(gathered)}, what the MLTable names outside its own folder was copied into it, "
            "and the job's copy of the MLTable says so."
        )
    return tuple(notes)


def _make_read_only(directory: Path) -> None:
    """The input's folder and all that is in it."""
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)


def clear(directory: Path) -> None:
    """Removes it, whatever it is, read-only folders included. Links are not followed."""
    if directory.is_symlink() or directory.is_file():
        directory.unlink()
    elif directory.exists():
        for folder, _, _ in os.walk(directory):
            os.chmod(folder, 0o700)
        shutil.rmtree(directory)


def _file_name(url: str) -> str:
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    return name if name not in ("", ".", "..") and "\0" not in name else "download"


def download(
    url: str,
    target: Path,
    *,
    limit: int = MAX_DOWNLOAD,
    timeout_s: float = TIMEOUT_S,
    wait: Callable[[float], None] = time.sleep,
    going: Going = _on,
) -> int:
    """An http(s) address into a file -> bytes. What may pass (a broken connection, 429, 5xx) is tried
    TRIES times. Raises NotFound, InvalidRequest or OutOfSpace; the file is whole or absent."""
    from urllib.error import HTTPError, URLError

    problem = ""
    for attempt in range(TRIES):
        if attempt:
            wait(0.5 * 2**attempt)
        try:
            return _fetch(url, target, limit, timeout_s, going)
        except HTTPError as error:
            problem = f"the server answered {error.code} {error.reason}"
            if error.code in (404, 410):
                raise NotFound(f"{url} could not be read: {problem}.", "InputNotFound", url) from error
            if error.code < 500 and error.code != 429:
                break
        except (URLError, OSError, EOFError) as error:
            problem = str(getattr(error, "reason", error))
            if getattr(error, "errno", None) == 28:
                raise OutOfSpace(f"{url} does not fit on the disk of {target.parent}.") from error
        finally:
            target.with_name(target.name + ".part").unlink(missing_ok=True)
    raise InvalidRequest(f"{url} could not be read: {problem}.", "InputNotAvailable", url)


def _fetch(url: str, target: Path, limit: int, timeout_s: float, going: Going) -> int:
    from urllib.request import Request, build_opener

    part = target.with_name(target.name + ".part")
    request = Request(url, headers={"User-Agent": "tidemill"})
    with build_opener().open(request, timeout=timeout_s) as reply, part.open("wb") as file:
        expected = reply.headers.get("Content-Length")
        if expected is not None and int(expected) > limit:
            raise _too_large(url, int(expected), limit)
        size = 0
        while chunk := reply.read1(
            _CHUNK
        ):  # what is there: a slow sender does not keep us from being stopped
            going()
            size += len(chunk)
            if size > limit:
                raise _too_large(url, size, limit)
            file.write(chunk)
    if expected is not None and size != int(expected):
        raise EOFError(f"the connection closed after {size} of {expected} bytes")
    part.replace(target)
    return size


def _too_large(url: str, size: int, limit: int) -> InvalidRequest:
    return InvalidRequest(
        f"{url} has more than {limit} bytes ({size}); put it into a datastore instead.", "InputTooLarge", url
    )
