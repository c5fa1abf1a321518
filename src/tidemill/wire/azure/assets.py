"""codes, environments, data, models and components: translation between ARM's shape and app.assets.assets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.responses import Response

from tidemill.app.assets import assets
from tidemill.app.assets.assets import AssetQuery
from tidemill.app.assets.model_flavors import with_flavors
from tidemill.app.assets.storage import rebase, without_account
from tidemill.app.assets.storage_access import signer_of
from tidemill.app.rows.asset_rows import ENVIRONMENTS, KINDS, MODELS, AssetKind, container_key, version_key
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.services import Services
from tidemill.catalog.curated import CuratedEnvironment
from tidemill.data.bloburls import blob_url
from tidemill.domain.errors import InvalidRequest, NotFound
from tidemill.domain.ids import PROVIDER, resource_id
from tidemill.domain.model import Resource, Scope
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.arm.etag import etag
from tidemill.wire.arm.paging import next_link, read_page, split_page
from tidemill.wire.azure import data_plane
from tidemill.wire.blob.sas import make_sas
from tidemill.wire.http import Context, Route, bytes_response, json_response

WORKSPACE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}"
ACTION = f"{PROVIDER}/workspaces"
UPLOAD_HOURS = 24
UPLOAD_PERMISSIONS = "racwdl"
STATE = encode({"provisioningState": "Succeeded"})

Handler = Callable[[AssetKind, Context], Awaitable[Response]]


def routes() -> list[Route]:
    found = data_plane.routes()
    for kind in KINDS.values():
        action = f"{ACTION}/{kind.type}"
        base = f"{WORKSPACE}/{kind.type}"
        one, versions = base + "/{name}", base + "/{name}/versions"
        version = versions + "/{version}"
        table: list[tuple[str, str, str, Handler]] = [
            ("GET", base, f"{action}/read", list_containers),
            ("GET", one, f"{action}/read", get_container),
            ("PUT", one, f"{action}/write", put_container),
            ("DELETE", one, f"{action}/delete", delete_container),
            ("GET", versions, f"{action}/versions/read", list_versions),
            ("GET", version, f"{action}/versions/read", get_version),
            ("PUT", version, f"{action}/versions/write", put_version),
            ("DELETE", version, f"{action}/versions/delete", delete_version),
        ]
        if kind.located:
            upload = version + "/startPendingUpload"
            table.append(("POST", upload, f"{action}/versions/write", start_upload))
        found += [Route(method, path, need, partial(handler, kind)) for method, path, need, handler in table]
    return found


def render_version(services: Services, row: Resource, note: str = "") -> bytes:
    addresses, properties = services.addresses, row.spec
    in_registry = bool(row.key.scope.registry) and row.key.type == MODELS.versions
    return render(
        row,
        _id(row),
        properties=(without_account if in_registry else rebase)(addresses, properties),
        extra_properties=STATE,
        extra=_extra(row, note),
    )


def render_container(row: Resource, note: str = "") -> bytes:
    computed = {**decode_object(row.status), "provisioningState": "Succeeded"}
    return render(row, _id(row), extra_properties=encode(computed), extra=_extra(row, note))


def _id(row: Resource) -> str:
    """ "" for ARM's own; assets of a registry have its address, by which jobs use them."""
    registry, key = row.key.scope.registry, row.key
    if not registry:
        return ""
    return f"azureml://registries/{registry}/{resource_id(key).removeprefix(f'{key.scope.arm_id}/')}"


def _extra(row: Resource, note: str) -> bytes:
    """Beside ARM's envelope: `warnings`, what the command line shows."""
    return encode({"etag": etag(row), **({"warnings": [note]} if note else {})})


async def put_version(kind: AssetKind, ctx: Context) -> Response:
    row, created = await assets.put_version(
        ctx.services,
        ctx.caller,
        ctx.scope,
        kind,
        _name(ctx),
        ctx.params["version"],
        await ctx.request.json(),
    )
    row = await with_flavors(ctx.services, row)
    note = await assets.note_of(ctx.services, kind, row)
    return bytes_response(render_version(ctx.services, row, note), 201 if created else 200)


async def get_version(kind: AssetKind, ctx: Context) -> Response:
    name, version = _name(ctx), ctx.params["version"]
    try:
        row = await assets.get_version(ctx.services, ctx.scope, kind, name, version)
        row = await with_flavors(ctx.services, row)
    except NotFound:
        curated = _curated(ctx, kind)
        if curated is None:
            raise
        row = _curated_version(ctx.scope, name, version, curated)
    return bytes_response(render_version(ctx.services, row))


async def list_versions(kind: AssetKind, ctx: Context) -> Response:
    query = _query(ctx)
    page = read_page(ctx.request)
    rows = await assets.list_versions(ctx.services, ctx.scope, kind, _name(ctx), query)
    shown, after = split_page(rows, page)
    items = [render_version(ctx.services, await with_flavors(ctx.services, row)) for row in shown]
    curated = _curated(ctx, kind)
    if not items and curated is not None and query.archived is not True:
        row = _curated_version(ctx.scope, _name(ctx), curated.version, curated)
        items = [render_version(ctx.services, row)]
    return bytes_response(render_list(items, next_link(ctx, after)))


async def delete_version(kind: AssetKind, ctx: Context) -> Response:
    gone = await assets.delete_version(
        ctx.services, ctx.caller, ctx.scope, kind, _name(ctx), ctx.params["version"]
    )
    return Response(status_code=200 if gone else 204)


async def list_containers(kind: AssetKind, ctx: Context) -> Response:
    page = read_page(ctx.request)
    rows = await assets.list_containers(ctx.services, ctx.scope, kind, _query(ctx))
    shown, after = split_page(rows, page)
    return bytes_response(render_list(map(render_container, shown), next_link(ctx, after)))


async def get_container(kind: AssetKind, ctx: Context) -> Response:
    name = _name(ctx)
    try:
        row = await assets.get_container(ctx.services, ctx.scope, kind, name)
    except NotFound:
        curated = _curated(ctx, kind)
        if curated is None:
            raise
        row = _curated_container(ctx.scope, name, curated)
    return bytes_response(render_container(row))


async def put_container(kind: AssetKind, ctx: Context) -> Response:
    row, created = await assets.put_container(
        ctx.services, ctx.caller, ctx.scope, kind, _name(ctx), await ctx.request.json()
    )
    note = await assets.note_of(ctx.services, kind, row)
    return bytes_response(render_container(row, note), 201 if created else 200)


async def delete_container(kind: AssetKind, ctx: Context) -> Response:
    gone = await assets.delete_container(ctx.services, ctx.caller, ctx.scope, kind, _name(ctx))
    return Response(status_code=200 if gone else 204)


async def start_upload(kind: AssetKind, ctx: Context) -> Response:
    """A container of its own, and a SAS that opens only that."""
    s = ctx.services
    upload = await assets.start_pending_upload(s, ctx.scope, kind, _name(ctx), ctx.params["version"])
    address = blob_url(s.addresses.data, upload.account, upload.container)
    expiry = s.clock.now() + UPLOAD_HOURS * 3_600_000_000
    holder = signer_of(ctx.caller, ctx.decision)
    key = s.storage_keys.key(upload.account, holder)
    sas = make_sas(key, upload.account, upload.container, None, UPLOAD_PERMISSIONS, expiry, holder=holder)
    group = f"/subscriptions/{ctx.scope.subscription}/resourceGroups/{ctx.scope.group}/providers"
    return json_response(
        {
            "pendingUploadId": upload.id,
            "pendingUploadType": "TemporaryBlobReference",
            "blobReferenceForConsumption": {
                "blobUri": address,
                "storageAccountArmId": f"{group}/Microsoft.Storage/storageAccounts/{upload.account}",
                "credential": {"credentialType": "SAS", "sasUri": f"{address}?{sas}"},
            },
        }
    )


def _query(ctx: Context) -> AssetQuery:
    """ARM's words: listViewType, $orderBy, hash; pages as everywhere."""
    query, page = ctx.request.query, read_page(ctx.request)
    view = query.get("listViewType", "ActiveOnly").rsplit(".", 1)[-1].replace("_", "").casefold()
    views = {"activeonly": False, "archivedonly": True, "all": None}
    if view not in views:
        raise InvalidRequest(
            f"listViewType {query['listViewType']!r} is not known. Use ActiveOnly, ArchivedOnly or All.",
            target="listViewType",
        )
    order = (query.get("$orderBy") or query.get("orderBy") or "createdtime desc").casefold().split()
    if order[0] not in ("createdtime", "createdat") or order[1:] not in (
        [],
        ["asc"],
        ["desc"],
    ):
        raise InvalidRequest(
            f"$orderBy {' '.join(order)!r} is not known. Use 'createdtime desc' or 'createdtime asc'.",
            target="$orderBy",
        )
    return AssetQuery(
        archived=views[view],
        ascending=order[1:] != ["desc"],
        limit=page.limit + 1,
        after=page.after,
        hash=query.get("hash", ""),
        hash_version=query.get("hashVersion", ""),
    )


def _name(ctx: Context) -> str:
    """The SDK asks for the latest of `azureml:digits@latest` under the name `azureml:digits`."""
    return ctx.params["name"].removeprefix("azureml:")


def _curated(ctx: Context, kind: AssetKind) -> CuratedEnvironment | None:
    if kind is not ENVIRONMENTS or ctx.scope.registry:
        return None
    return ctx.services.curated.find(_name(ctx))


def _curated_version(scope: Scope, name: str, version: str, curated: CuratedEnvironment) -> Resource:
    """Read-only: made from the catalogue, not stored."""
    spec = {
        "image": curated.image,
        "condaFile": curated.conda_text(),
        "description": " ".join(curated.notes()),
        "isAnonymous": False,
        "isArchived": False,
        "environmentType": "Curated",
        "osType": "Linux",
        "tags": {},
        "properties": {},
    }
    key = version_key(scope, ENVIRONMENTS, name, version)
    return Resource(f"curated-{curated.name}", key, "Succeeded", spec=encode(spec), created_by="Tidemill")


def _curated_container(scope: Scope, name: str, curated: CuratedEnvironment) -> Resource:
    spec = {"description": " ".join(curated.notes()), "isArchived": False, "tags": {}, "properties": {}}
    status = {"latestVersion": curated.version, "nextVersion": curated.version}
    return Resource(
        f"curated-{curated.name}",
        container_key(scope, ENVIRONMENTS, name),
        "Succeeded",
        spec=encode(spec),
        status=encode(status),
        created_by="Tidemill",
    )
