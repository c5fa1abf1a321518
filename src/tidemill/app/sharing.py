"""Assets of a workspace brought into a registry. Their bytes get a second name there, so they stay when the
workspace goes, and nothing is copied."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from tidemill.app import assets
from tidemill.app.access import authorise
from tidemill.app.asset_rows import DATA, ENVIRONMENTS, KINDS, MODELS, AssetKind, find_version, version_key
from tidemill.app.codec import decode_object
from tidemill.app.compute_rules import object_at
from tidemill.app.locations import Location, Storage, locate
from tidemill.app.services import Services
from tidemill.app.storage import account_for
from tidemill.app.workspaces import scope_of, status_of
from tidemill.data.blobmodel import BlobProperties
from tidemill.data.bloburls import blob_url
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.plan import Place
from tidemill.store.api import Read, ResourceQuery

SHARED_FROM = "tidemill.shared_from"
_OFFERED = (DATA, ENVIRONMENTS, MODELS)
_SOURCE = re.compile(
    r"^azureml://locations/[^/]+/workspaces/(?P<guid>[^/]+)/(?P<kind>[^/]+)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)$",
    re.IGNORECASE,
)


async def import_asset(s: Services, caller: Caller, registry: Scope, body: Mapping[str, Any]) -> Resource:
    """`properties`: {"sourceAssetId", "destinationName", "destinationVersion"} -> the version there. The
    caller needs the right to read the source. The same again is the same version. Raises NotFound,
    InvalidRequest, AccessDenied, Conflict."""
    wanted = object_at(body, "properties")
    given = str(wanted.get("sourceAssetId") or "")
    match = _SOURCE.match(given)
    kind = KINDS.get(match["kind"].lower()) if match else None
    if match is None or kind not in _OFFERED:
        raise InvalidRequest(
            f"sourceAssetId {given!r} is not the id of a model, a data asset or an environment of a "
            "workspace. Components are created in a registry themselves.",
            target="properties.sourceAssetId",
        )
    source = await _workspace(s, caller, match["guid"], kind, f"{match['name']}/versions/{match['version']}")
    row = await s.store.read(lambda read: find_version(read, source, kind, match["name"], match["version"]))
    name = str(wanted.get("destinationName") or row.key.parent)
    version = str(wanted.get("destinationVersion") or row.key.name)
    spec = decode_object(row.spec)
    there = await s.store.read(lambda read: read.get(version_key(registry, kind, name, version)))
    if there is not None:
        if object_at(decode_object(there.spec), "properties").get(SHARED_FROM) == given:
            return there
        raise Conflict(
            f"{kind.label} {name!r} version {version!r} exists in registry {registry.registry!r} already. "
            "Share it with another version.",
            "VersionImmutable",
            "properties.destinationVersion",
        )
    properties = {key: spec[key] for key in ("description", "tags", *kind.fixed, "flavors") if key in spec}
    properties["properties"] = {**(spec.get("properties") or {}), SHARED_FROM: given}
    if kind is not ENVIRONMENTS:
        properties[kind.located] = await _brought(s, registry, source, kind, name, version, spec)
    elif spec.get("build"):
        raise InvalidRequest(
            f"Environment {name!r} has a Docker build context and is not shared: its files stay in the "
            "workspace, where they are built. Push the image to a registry of images, and share an "
            "environment that names it.",
            target="properties.build",
        )
    made, _ = await assets.put_version(s, caller, registry, kind, name, version, {"properties": properties})
    return made


async def _workspace(s: Services, caller: Caller, guid: str, kind: AssetKind, below: str) -> Scope:
    """By its GUID; raises NotFound alike for one that is not there and one that the caller may not read."""
    rows = await s.store.read(lambda read: read.find(ResourceQuery("workspaces")))
    scope = next((scope_of(row) for row in rows if status_of(row).get("workspaceId") == guid.lower()), None)
    if scope is None:
        raise NotFound(f"There is no workspace {guid!r}.", target="properties.sourceAssetId")
    await authorise(
        s, caller, f"{PROVIDER}/workspaces/{kind.type}/versions/read", scope, f"{kind.type}/{below}"
    )
    return scope


async def _brought(
    s: Services,
    registry: Scope,
    source: Scope,
    kind: AssetKind,
    name: str,
    version: str,
    spec: Mapping[str, Any],
) -> str:
    """The address of the asset's bytes in the registry's storage; a web address stays what it is."""
    uri = str(spec[kind.located])

    def look(read: Read) -> Location:
        storage = Storage(source, account_for(read, source), s.addresses.data_netloc)
        return locate(read, storage, uri, kind)

    place = (await s.store.read(look)).place
    if place is None:
        return uri
    upload = await assets.start_pending_upload(s, registry, kind, name, version)
    leaf = place.path.rstrip("/").rpartition("/")[2]
    count = await asyncio.to_thread(_link, s, place, Place(upload.account, upload.container, leaf))
    if not count:
        raise NotFound(f"Nothing is stored at {uri}.", target="properties.sourceAssetId")
    return blob_url(s.addresses.data, upload.account, upload.container, leaf)


def _link(s: Services, source: Place, target: Place) -> int:
    """A file, or all of a folder. -> how many."""
    path = source.path.rstrip("/")
    single = s.blobs.get(source.account, source.container, path) if path else None
    if single is not None and not source.path.endswith("/"):
        _copy(s, single, target, target.path)
        return 1
    start, marker, count = f"{path}/" if path else "", "", 0
    while True:
        page = s.blobs.list(source.account, source.container, start, marker=marker)
        for blob in page.blobs:
            below = blob.name[len(start) :]
            _copy(s, blob, target, f"{target.path}/{below}" if target.path else below)
        count += len(page.blobs)
        marker = page.next_marker
        if not marker:
            return count


def _copy(s: Services, blob: Any, target: Place, name: str) -> None:
    properties = BlobProperties(blob.content_type, blob.metadata, blob.headers, blob.md5)
    s.blobs.copy_blob(blob, target.account, target.container, name, properties)
