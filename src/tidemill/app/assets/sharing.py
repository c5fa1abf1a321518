"""Assets of a workspace brought into a registry. Their bytes get a second name there, so they stay when the
workspace goes, and nothing is copied."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.assets import assets
from tidemill.app.assets.locations import Location, Storage, locate
from tidemill.app.assets.storage import account_for
from tidemill.app.computes.compute_rules import object_at
from tidemill.app.people.access import authorise
from tidemill.app.rows.asset_rows import (
    CODES,
    COMPONENTS,
    DATA,
    ENVIRONMENTS,
    KINDS,
    MODELS,
    AssetKind,
    container_key,
    find_version,
    version_key,
)
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.registry_rows import CURATED
from tidemill.app.services import Services
from tidemill.app.workspaces.workspaces import scope_of, status_of
from tidemill.data.blobmodel import BlobProperties
from tidemill.data.bloburls import blob_url
from tidemill.data.uris import AssetId, AssetName, RegistryUri, parse_uri
from tidemill.domain.component_names import Named, named_in, renamed
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, TidemillError
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.plan import Place
from tidemill.store.api import Read, ResourceQuery

SHARED_FROM = "tidemill.shared_from"
_SOURCE = re.compile(
    r"(?P<workspace>azureml://locations/[^/]+/workspaces/(?P<guid>[^/]+))/(?P<kind>[^/]+)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)",
    re.IGNORECASE,
)
_OFFERED = (COMPONENTS, DATA, ENVIRONMENTS, MODELS)


@dataclass(frozen=True, slots=True)
class _Share:
    """Who shares, from where and whereto. `address`: of the workspace, as `sourceAssetId` has it; `within`:
    components that are on their way, each because the one before names it."""

    s: Services
    caller: Caller
    source: Scope
    address: str
    registry: Scope
    within: tuple[str, ...] = ()


async def import_asset(s: Services, caller: Caller, registry: Scope, body: Mapping[str, Any]) -> Resource:
    """`properties`: {"sourceAssetId", "destinationName", "destinationVersion"} -> the version there. A
    component comes with what it names. The caller needs the right to read the source, and all that comes with
    it. The same again is the same version. Raises NotFound, InvalidRequest, AccessDenied, Conflict."""
    wanted = object_at(body, "properties")
    given = str(wanted.get("sourceAssetId") or "")
    match = _SOURCE.fullmatch(given)
    kind = KINDS.get(match["kind"].lower()) if match else None
    if match is None or kind not in _OFFERED:
        raise InvalidRequest(
            f"sourceAssetId {given!r} is not the id of a model, a data asset, an environment or a component "
            "of a workspace: write azureml://locations/LOCATION/workspaces/ID/models/NAME/versions/VERSION.",
            target="properties.sourceAssetId",
        )
    source = await _workspace(s, match["guid"])
    share = _Share(s, caller, source, match["workspace"], registry)
    row = await _source(share, kind, match["name"], match["version"])
    name = str(wanted.get("destinationName") or row.key.parent)
    return await _bring(share, kind, row, name, str(wanted.get("destinationVersion") or row.key.name))


async def _bring(share: _Share, kind: AssetKind, row: Resource, name: str, version: str) -> Resource:
    there = await _there(share, kind, row, name, version)
    if there is not None:
        return there
    spec = decode_object(row.spec)
    kept = ("description", "tags", *kind.fixed, "flavors", "isAnonymous", "inferenceConfig")
    properties = {key: spec[key] for key in kept if key in spec}
    properties["properties"] = {**(spec.get("properties") or {}), SHARED_FROM: _id_of(share, kind, row)}
    if kind is COMPONENTS:
        component = {**await _with_its_own(share, row), "name": name, "version": version}
        properties["componentSpec"] = component
    elif kind is not ENVIRONMENTS:
        properties[kind.located] = await _brought(share, kind, name, version, str(spec[kind.located]))
    elif spec.get("build"):
        uri = str(spec["build"].get("contextUri") or "")
        properties["build"] = {
            **spec["build"],
            "contextUri": await _brought(share, kind, name, version, uri),
        }
    body = {"properties": properties}
    try:
        made, _ = await assets.put_version(share.s, share.caller, share.registry, kind, name, version, body)
    except Conflict:  # somebody else was sharing it, too
        there = await _there(share, kind, row, name, version)
        if there is None:
            raise
        return there
    return made


async def _there(share: _Share, kind: AssetKind, row: Resource, name: str, version: str) -> Resource | None:
    """What the registry has already. Raises Conflict where that is something else."""
    key = version_key(share.registry, kind, name, version)
    there = await share.s.store.read(lambda read: read.get(key))
    if there is None:
        return None
    # What only a hash names is the same, wherever it comes from; code has its hash beside its name.
    anonymous = decode_object(row.spec).get("isAnonymous")
    same = row.ref and row.ref == there.ref if kind is CODES else anonymous
    shared_from = object_at(decode_object(there.spec), "properties").get(SHARED_FROM)
    if same or shared_from == _id_of(share, kind, row):
        return there
    fix = "Give it another version where it is" if share.within else "Share it with another version"
    raise Conflict(
        f"{kind.label} {name!r} version {version!r} exists in registry {share.registry.registry!r} already, "
        f"from elsewhere. {fix}.",
        "VersionImmutable",
        "properties.destinationVersion",
    )


def _id_of(share: _Share, kind: AssetKind, row: Resource) -> str:
    return f"{share.address}/{kind.type}/{row.key.parent}/versions/{row.key.name}"


async def _with_its_own(share: _Share, component: Resource) -> dict[str, Any]:
    """The spec of a component with the registry's addresses of what it names, which is shared with it."""
    spec = decode_object(component.spec)["componentSpec"]
    whose = f"{component.key.parent}:{component.key.name}"
    if whose in share.within:
        raise InvalidRequest("it is made of itself, and runs nowhere.")
    inside = replace(share, within=(*share.within, whose))
    to: dict[Named, str] = {}
    for named in named_in(spec):
        try:
            to[named] = await _address_there(inside, KINDS[named.kind], named.text)
        except TidemillError as error:
            error.message = f"Component '{whose}' names {named.text}: {error.message}"
            raise
    return renamed(spec, to)


async def _address_there(share: _Share, kind: AssetKind, text: str) -> str:
    s, source, registry = share.s, share.source, share.registry
    uri = parse_uri(text if text.startswith(("azureml:", "/")) else f"azureml:{text}")
    if isinstance(uri, RegistryUri):
        if uri.registry.casefold() not in (registry.registry.casefold(), CURATED):
            raise InvalidRequest(
                f"it is in registry {uri.registry!r}. What a component names must be in its own registry "
                f"({registry.registry!r}), or in the workspace that it is shared from."
            )
        return text
    scope = uri.scope if isinstance(uri, AssetId) else None
    elsewhere = scope is not None and scope.arm_id.casefold() != source.arm_id.casefold()
    if not isinstance(uri, AssetId | AssetName) or elsewhere:
        raise InvalidRequest(
            f"with a component is shared only what has a name and a version in {source.words}."
        )
    if kind is ENVIRONMENTS and await _is_curated(s, source, uri.name):
        last = f"versions/{uri.version}" if uri.version else "labels/latest"
        return f"azureml://registries/{CURATED}/environments/{uri.name}/{last}"
    row = await _source(share, kind, uri.name, uri.version, uri.label)
    made = await _bring(share, kind, row, row.key.parent, row.key.name)
    return f"azureml://registries/{registry.registry}/{kind.type}/{made.key.parent}/versions/{made.key.name}"


async def _is_curated(s: Services, source: Scope, name: str) -> bool:
    known = s.curated.find(name) is not None
    own = await s.store.read(lambda read: read.get(container_key(source, ENVIRONMENTS, name)))
    return known and own is None


async def _workspace(s: Services, guid: str) -> Scope:
    """By its GUID; raises NotFound."""
    rows = await s.store.read(lambda read: read.find(ResourceQuery("workspaces")))
    scope = next((scope_of(row) for row in rows if status_of(row).get("workspaceId") == guid.lower()), None)
    if scope is None:
        raise NotFound(f"There is no workspace {guid!r}.", target="properties.sourceAssetId")
    return scope


async def _source(share: _Share, kind: AssetKind, name: str, version: str, label: str = "") -> Resource:
    """A version that the caller may read. Raises NotFound, AccessDenied."""
    below = f"{kind.type}/{name}/versions/{version or label}"
    action = f"{PROVIDER}/workspaces/{kind.type}/versions/read"
    await authorise(share.s, share.caller, action, share.source, below)
    return await share.s.store.read(lambda read: find_version(read, share.source, kind, name, version, label))


async def _brought(share: _Share, kind: AssetKind, name: str, version: str, uri: str) -> str:
    """The address of the asset's bytes in the registry's storage; a web address stays what it is."""
    s = share.s

    def look(read: Read) -> Location:
        storage = Storage(share.source, account_for(read, share.source), s.addresses.data_netloc)
        return locate(read, storage, uri, kind)

    place = (await s.store.read(look)).place
    if place is None:
        return uri
    upload = await assets.start_pending_upload(s, share.registry, kind, name, version)
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
