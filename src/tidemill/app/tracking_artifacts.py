"""Files of runs: `ExperimentRun/dcid.{run}/…` in the workspace's artifact container,
beside logs and outputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tidemill.app import storage, tracking
from tidemill.app.services import Services
from tidemill.data.blobmodel import BlobInfo, BlobProperties
from tidemill.domain.errors import Forbidden, InvalidRequest, NotFound
from tidemill.domain.model import Caller, Scope

CONTAINER = "azureml"
_RUNS = "ExperimentRun/dcid."


@dataclass(frozen=True, slots=True)
class Entry:
    """`path` is relative to what was listed; `size` None for a folder."""

    path: str
    size: int | None


async def list_files(s: Services, scope: Scope, path: str) -> list[Entry]:
    """What lies directly below the folder `path`."""
    prefix = f"{_checked(path)}/"
    account = await account_of(s, scope)
    found: list[Entry] = []
    marker = ""
    while True:
        page = await asyncio.to_thread(
            s.blobs.list, account, CONTAINER, prefix=prefix, delimiter="/", marker=marker
        )
        found += [Entry(folder.removeprefix(prefix).rstrip("/"), None) for folder in page.prefixes]
        found += [Entry(blob.name.removeprefix(prefix), blob.size) for blob in page.blobs]
        marker = page.next_marker
        if not marker:
            return sorted(found, key=lambda entry: entry.path)


async def find(s: Services, scope: Scope, path: str) -> tuple[BlobInfo, Path]:
    """-> the file and where its bytes lie. Raises NotFound."""
    info = await asyncio.to_thread(s.blobs.get, await account_of(s, scope), CONTAINER, _checked(path))
    if info is None:
        raise NotFound(f"There is no artifact {path!r}.", target=path)
    return info, s.blobs.path_of(info)


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


async def check_writable(s: Services, caller: Caller, scope: Scope, name: str) -> None:
    """Raises Forbidden where `caller` may not write the file, InvalidRequest for a name that is none."""
    _checked(name)
    if name.startswith(_RUNS):
        await tracking.may_write(s, caller, scope, name.removeprefix(_RUNS).split("/", 1)[0])
    elif caller.only_own:
        raise Forbidden(f"Job {caller.job!r} may write artifacts only of its own runs, not {name!r}.")


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
