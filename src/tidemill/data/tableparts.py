"""What an MLTable names outside its folder, brought into it: whoever reads the staged table, by the package
`mltable` or as YAML, finds everything by paths relative to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.data.blobtree import safe_parts
from tidemill.data.mltable import FILE, TablePath, matcher, read_paths, with_paths
from tidemill.domain.errors import Conflict, NotFound
from tidemill.domain.plan import PlannedInput, TablePart

if TYPE_CHECKING:
    from tidemill.data.blobstore import BlobStore

FOLDER = "_elsewhere"


def bring_parts(blobs: BlobStore, item: PlannedInput, directory: Path, going: Callable[[], None]) -> int:
    """`directory` holds the copy of the table's folder. -> bytes copied. Raises NotFound, or Conflict where
    the stored MLTable has become another since the submit."""
    if not item.parts:
        return 0
    file = directory / FILE
    raw = file.read_bytes()
    wanted = {part.value: (number, part) for number, part in enumerate(item.parts)}
    written: list[tuple[TablePath, str]] = []
    copied = 0
    folder = _free_name(directory)
    done: set[str] = set()
    for path in read_paths(raw, f"Input {item.name!r}, {FILE}"):
        if path.value not in wanted:
            continue
        number, part = wanted[path.value]
        base = f"{folder}/{number}"
        if path.value not in done:
            copied += _bring(blobs, item, part, directory / base, going)
            done.add(path.value)
        written.append((path, f"./{base}/{_name(part)}"))
    if len(done) != len(wanted):
        raise Conflict(
            f"Input {item.name!r} ({item.given}): its {FILE} was changed after the job was submitted. "
            "Submit the job again.",
            "InputChanged",
            item.name,
        )
    os.chmod(file, 0o644)
    file.write_bytes(with_paths(raw, written))
    return copied


def _free_name(directory: Path) -> str:
    name = FOLDER
    while os.path.lexists(directory / name):
        name += "_"
    return name


def _name(part: TablePart) -> str:
    """What stands in the MLTable after the folder's path."""
    if part.kind == "file":
        return safe_parts(part.place.path.rsplit("/", 1)[-1])[0]
    return part.tail


def _bring(
    blobs: BlobStore, item: PlannedInput, part: TablePart, target: Path, going: Callable[[], None]
) -> int:
    place = part.place
    if part.kind == "file":
        target.mkdir(parents=True)
        return blobs.copy_out(place.account, place.container, place.path, target / _name(part), going=going)
    if part.kind == "folder":
        target.mkdir(parents=True)
        return blobs.copy_out(place.account, place.container, place.path, target, going=going)
    copied, marker, good = 0, "", matcher(part.tail)
    while True:
        page = blobs.list(place.account, place.container, place.path, marker=marker)
        for blob in page.blobs:
            below = blob.name[len(place.path) :]
            if good.fullmatch(below):
                to = target.joinpath(*safe_parts(below))
                copied += blobs.copy_out(place.account, place.container, blob.name, to, going=going)
        marker = page.next_marker
        if not marker:
            break
    if not target.exists():
        raise NotFound(
            f"Input {item.name!r} ({item.given}): nothing matches {part.value!r} of its {FILE}.",
            "InputNotFound",
            item.name,
        )
    return copied
