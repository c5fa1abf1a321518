"""Files of runs: `ExperimentRun/dcid.{run}/…` in the workspace's artifact container, beside logs and outputs;
and files of registered models, `models/{name}:{version}/model/…`, which are read only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tidemill.app.assets import model_sources, storage
from tidemill.app.services import Services
from tidemill.app.tracking import tracking
from tidemill.data.blobmodel import BlobInfo, BlobProperties
from tidemill.domain.errors import Forbidden, InvalidRequest, NotFound
from tidemill.domain.model import Caller, Scope
from tidemill.domain.plan import Place

CONTAINER = "azureml"
_RUNS = "ExperimentRun/dcid."


@dataclass(frozen=True, slots=True)
class Entry:
    """`path` is relative to what was listed; `size` None for a folder."""

    path: str
    size: int | None


async def list_files(s: Services, scope: Scope, path: str) -> list[Entry]:
    """What lies directly below the folder `path`."""
    place = await place_of(s, scope, path)
    prefix = f"{place.path}/"
    found: list[Entry] = []
    marker = ""
    while True:
        page = await asyncio.to_thread(
            s.blobs.list, place.account, place.container, prefix=prefix, delimiter="/", marker=marker
        )
        found += [Entry(folder.removeprefix(prefix).rstrip("/"), None) for folder in page.prefixes]
        found += [Entry(blob.name.removeprefix(prefix), blob.size) for blob in page.blobs]
        marker = page.next_marker
        if not marker:
            return sorted(found, key=lambda entry: entry.path)


async def list_all(s: Services, scope: Scope, path: str, token: str = "") -> tuple[list[str], str]:
    """Every file below the folder `path`, by its path from there -> (one page, token of the next or "")."""
    place = await place_of(s, scope, path)
    prefix = f"{place.path}/"
    page = await asyncio.to_thread(s.blobs.list, place.account, place.container, prefix=prefix, marker=token)
    return [blob.name.removeprefix(prefix) for blob in page.blobs], page.next_marker


async def find(s: Services, scope: Scope, path: str) -> tuple[BlobInfo, Path]:
    """-> the file and where its bytes lie. Raises NotFound."""
    place = await place_of(s, scope, path)
    info = await asyncio.to_thread(s.blobs.get, place.account, place.container, place.path)
    if info is None:
        raise NotFound(f"There is no artifact {path!r}.", target=path)
    return info, s.blobs.path_of(info)


async def place_of(s: Services, scope: Scope, path: str) -> Place:
    """Of a run's file or folder, or of a registered model's."""
    name = _checked(path)
    found = await model_sources.place_of(s, scope, name)
    return found or Place(await account_of(s, scope), CONTAINER, name)


async def put(
    s: Services, caller: Caller, scope: Scope, path: str, content_type: str, chunks: AsyncIterator[bytes]
) -> None:
    """Stores what `chunks` brings, of any size. Raises Forbidden where `caller` may not write to the run."""
    name = _checked(path)
    await check_writable(s, caller, scope, name)
    account = await account_of(s, scope)
    upload = await asyncio.to_thread(s.blobs.begin_upload)
    try:
        async for chunk in chunks:
            await asyncio.to_thread(upload.write, (chunk,))
        properties = BlobProperties(content_type) if content_type else BlobProperties()
        await asyncio.to_thread(s.blobs.commit_upload, upload, account, CONTAINER, name, properties)
    except BaseException:
        upload.discard()
        raise


async def delete(s: Services, caller: Caller, scope: Scope, path: str) -> None:
    """A file, or everything below a folder."""
    name = _checked(path)
    await check_writable(s, caller, scope, name)
    account = await account_of(s, scope)
    if not await asyncio.to_thread(s.blobs.delete, account, CONTAINER, name):
        await asyncio.to_thread(s.blobs.delete_prefix, account, CONTAINER, f"{name}/")


async def check_writable(s: Services, caller: Caller, scope: Scope, *names: str) -> None:
    """Raises Forbidden where `caller` may not write the files, InvalidRequest for a name that is none."""
    runs: set[str] = set()
    for name in names:
        _checked(name)
        if name.startswith(_RUNS):
            runs.add(name.removeprefix(_RUNS).split("/", 1)[0])
        elif model_sources.named_in(name):
            raise Forbidden(
                f"{name!r} is a registered model: its files do not change. Register another version.",
                target=name,
            )
        elif caller.only_own:
            raise Forbidden(f"Job {caller.job!r} may write artifacts only of its own runs, not {name!r}.")
    for run in runs:
        await tracking.may_write(s, caller, scope, run)


async def account_of(s: Services, scope: Scope) -> str:
    """The workspace's storage account."""
    return await s.store.read(lambda r: storage.account_for(r, scope))


def _checked(path: str) -> str:
    name = path.strip("/")
    if not name or any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidRequest(
            f"Artifact path {path!r} is not a relative path without '.' and '..'.", target="path"
        )
    return name
