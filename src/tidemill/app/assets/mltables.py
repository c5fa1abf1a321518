"""Tables (`mltable`): what their file MLTable names is found when a job is submitted, and read when one is
registered."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidemill.app.assets.inputs import check_inputs_exist
from tidemill.app.assets.locations import Location, Storage, locate
from tidemill.app.assets.registries import check_usable
from tidemill.app.assets.storage import account_for
from tidemill.app.services import Services
from tidemill.data.mltable import FILE, TablePath, read_paths
from tidemill.data.staging import MLTABLE
from tidemill.domain.errors import InvalidRequest, NotFound, TidemillError
from tidemill.domain.model import Caller, Scope
from tidemill.domain.plan import Place, PlannedInput, TablePart
from tidemill.store.api import Read


async def with_parts(
    s: Services, caller: Caller, scope: Scope, account: str, inputs: Sequence[PlannedInput]
) -> tuple[PlannedInput, ...]:
    """Each table with what of it lies outside its folder. Raises NotFound for what is not there,
    InvalidRequest with the MLTable's line and column, NotOffered for storage elsewhere, AccessDenied."""
    return tuple([await _with_parts(s, caller, scope, account, item) for item in inputs])


async def checked(s: Services, scope: Scope, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a table that is registered, with its MLTable's paths as `referencedUris`. One that is
    no storage of ours is taken as it is. Raises InvalidRequest with line and column, NotFound where no
    MLTable lies."""
    uri = given.get("dataUri")
    if not isinstance(uri, str) or not uri.strip():
        return dict(given)

    def look(read: Read) -> Location:
        return locate(read, Storage(scope, account_for(read, scope), s.addresses.data_netloc), uri)

    place = (await s.store.read(look)).place
    if place is None:
        return dict(given)
    where = f"Data asset {name!r}, {FILE}"
    raw = await asyncio.to_thread(_read, s, place)
    if raw is None:
        raise NotFound(
            f"Data asset {name!r} is an mltable, and there is no file {FILE} in {uri}. Upload the folder "
            "that has it, or register it as uri_folder.",
            "MLTableNotFound",
            "properties.dataUri",
        )
    found = [path.value for path in read_paths(raw, where)]
    said = given.get("referencedUris")
    if said and sorted(map(str, said)) != sorted(found):
        raise InvalidRequest(
            f"referencedUris of data asset {name!r} are {', '.join(map(str, said))}, but its {FILE} names "
            f"{', '.join(found)}. Upload the {FILE} that is meant, or leave referencedUris out.",
            "InvalidMLTable",
            "properties.referencedUris",
        )
    return {**given, "referencedUris": list(said or found)}


async def _with_parts(
    s: Services, caller: Caller, scope: Scope, account: str, item: PlannedInput
) -> PlannedInput:
    folder = item.place
    if item.type != MLTABLE or item.mode == "direct" or folder is None:
        return item
    raw = await asyncio.to_thread(_read, s, folder)
    if raw is None:
        if item.may_be_empty:
            return item
        raise NotFound(
            f"Input {item.name!r} ({item.given}) is an mltable, and there is no file {FILE} in it. Use type "
            "uri_folder for a folder without one.",
            "MLTableNotFound",
            f"properties.inputs.{item.name}",
        )
    paths = read_paths(raw, f"Input {item.name!r} ({item.given}), {FILE}")
    await check_usable(s, caller, [path.value for path in paths])
    storage = Storage(scope, account, s.addresses.data_netloc)
    places = await s.store.read(lambda read: [_place(read, storage, item, folder, path) for path in paths])
    there = [(path, place) for path, place in zip(paths, places, strict=True) if place is not None]
    await check_inputs_exist(s, [_as_input(item, path, place) for path, place in there])
    return replace(
        item,
        parts=tuple(
            TablePart(path.value, path.kind, place, path.tail if path.kind == "pattern" else "")
            for path, place in there
            if not (path.relative and place.path.startswith(folder.path))
        ),
    )


def _place(read: Read, storage: Storage, item: PlannedInput, folder: Place, path: TablePath) -> Place | None:
    """Where a path of a table leads (of a pattern: the folder above it); None for a web address."""
    where = f"Input {item.name!r} ({item.given}), {FILE}:{path.line}:{path.column}"
    fixed = path.fixed
    if path.relative:
        joined = posixpath.normpath(posixpath.join(folder.path or ".", fixed))
        if joined == ".." or joined.startswith("../"):
            raise InvalidRequest(f"{where}: {path.value!r} leads out of its container.", "InvalidMLTable")
        found: Place | None = Place(folder.account, folder.container, "" if joined == "." else joined)
    else:
        try:
            found = locate(read, storage, fixed).place
        except TidemillError as error:
            error.message = f"{where}: {error.message}"
            raise
    if found is None or path.kind == "file" or found.path.endswith("/") or not found.path:
        return found
    return replace(found, path=f"{found.path}/")


def _as_input(item: PlannedInput, path: TablePath, place: Place) -> PlannedInput:
    given = f"{item.given}, {FILE}:{path.line}:{path.column}: {path.value}"
    kind = "uri_file" if path.kind == "file" else "uri_folder"
    return PlannedInput(item.name, kind, item.mode, given, place=place)


def _read(s: Services, folder: Place) -> bytes | None:
    if s.blobs.container(folder.account, folder.container) is None:
        return None
    start = f"{folder.path.rstrip('/')}/" if folder.path else ""
    return s.blobs.read_bytes(folder.account, folder.container, start + FILE)
