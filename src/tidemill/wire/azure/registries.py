"""Registries as ARM and the SDK's registry clients know them: the resource, the discovery of where it is, and
its assets, whose handlers are those of workspaces."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from tidemill.app.assets import assets, registries, sharing
from tidemill.app.assets.storage_access import signer_of
from tidemill.app.rows.asset_rows import KINDS, AssetKind, version_key
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.registry_rows import require_registry
from tidemill.app.workspaces.workspaces import status_of
from tidemill.data.bloburls import blob_url
from tidemill.data.uris import BlobUrl, RegistryUri, parse_uri
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Resource
from tidemill.wire.arm import paging
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.azure import assets as workspace_assets
from tidemill.wire.blob.sas import make_sas
from tidemill.wire.http import SIGNED_IN, Context, Route, bytes_response, json_response

GROUP = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/registries"
REGISTRY = GROUP + "/{reg}"
ACTION = f"{PROVIDER}/registries"
READ_HOURS = 24


def routes() -> list[Route]:
    read, write, delete = (f"{ACTION}/assets/{verb}" for verb in ("read", "write", "delete"))
    found = [
        Route(
            "GET",
            f"/subscriptions/{{sub}}/providers/{PROVIDER}/registries",
            f"{ACTION}/read",
            _list,
            partial=True,
        ),
        Route("GET", GROUP, f"{ACTION}/read", _list, partial=True),
        Route("GET", REGISTRY, f"{ACTION}/read", _get),
        Route("PUT", REGISTRY, f"{ACTION}/write", _put),
        Route("DELETE", REGISTRY, f"{ACTION}/delete", _delete),
        # The right to read is asked about the registry, which the path does not place.
        Route("GET", "/registrymanagement/v1.0/registries/{name}/discovery", SIGNED_IN, _discovery),
        Route("POST", REGISTRY + "/import", write, _import),
        Route("PUT", REGISTRY + "/tempdatarefs/{name}/versions/{version}", write, _upload),
        Route("POST", REGISTRY + "/datarefs/{name}/versions/{version}", read, _download, reads=True),
    ]
    for kind in KINDS.values():
        base = f"{REGISTRY}/{kind.type}"
        one, versions = base + "/{name}", base + "/{name}/versions"
        version = versions + "/{version}"
        table = (
            ("GET", base, read, workspace_assets.list_containers),
            ("GET", one, read, workspace_assets.get_container),
            ("PUT", one, write, workspace_assets.put_container),
            ("DELETE", one, delete, workspace_assets.delete_container),
            ("GET", versions, read, workspace_assets.list_versions),
            ("GET", version, read, workspace_assets.get_version),
            ("PUT", version, write, workspace_assets.put_version),
            ("DELETE", version, delete, workspace_assets.delete_version),
        )
        found += [Route(method, path, need, partial(handler, kind)) for method, path, need, handler in table]
    return found


async def _get(ctx: Context) -> Response:
    row = await ctx.services.store.read(lambda read: require_registry(read, ctx.scope))
    return bytes_response(_render(ctx, row))


async def _list(ctx: Context) -> Response:
    page = paging.read_page(ctx.request)
    shows = ctx.part.shows if ctx.part is not None else None
    rows = await registries.list_of(
        ctx.services, ctx.scope, limit=page.limit + 1, after=page.after, shows=shows
    )
    shown, after = paging.split_page(rows, page)
    return bytes_response(render_list((_render(ctx, row) for row in shown), paging.next_link(ctx, after)))


async def _put(ctx: Context) -> Response:
    row, created = await registries.put(ctx.services, ctx.caller, ctx.scope, await ctx.request.json())
    return bytes_response(_render(ctx, row), 201 if created else 200)


async def _delete(ctx: Context) -> Response:
    gone = await registries.delete(ctx.services, ctx.caller, ctx.scope)
    return Response(status_code=200 if gone else 204)


def _render(ctx: Context, row: Resource) -> bytes:
    status, https = status_of(row), ctx.services.addresses.https
    group = f"/subscriptions/{row.key.scope.subscription}/resourceGroups/{row.key.scope.group}/providers"
    account = f"{group}/Microsoft.Storage/storageAccounts/{status['storage_account']}"
    storage = {"userCreatedStorageAccount": {"armResourceId": {"resourceId": account}}}
    computed: dict[str, Any] = {
        "provisioningState": row.state,
        "registryId": status["registryId"],
        "discoveryUrl": f"{https}/registrymanagement/v1.0/registries/{row.key.name}/discovery",
        "mlFlowRegistryUri": "",
        "managedResourceGroup": {"resourceId": ""},
        "intellectualPropertyPublisher": None,
        "regionDetails": [{"location": row.location, "acrDetails": [], "storageAccountDetails": [storage]}],
    }
    spec = {key: value for key, value in decode_object(row.spec).items() if key not in computed}
    return render(
        row,
        properties=encode({**spec, **computed}),
        extra=encode({"identity": {"type": "SystemAssigned"}}),
    )


async def _discovery(ctx: Context) -> Response:
    name = ctx.params["name"]
    row = await registries.by_name(ctx.services, ctx.caller, f"{ACTION}/read", name)
    https = ctx.services.addresses.https
    region = {"registryFqdn": https, "location": row.location}
    return json_response(
        {
            "registryName": row.key.name,
            "primaryRegionResourceProviderUri": f"{https}/",
            "primaryRegion": row.location,
            "resourceGroup": row.key.scope.group,
            "subscriptionId": row.key.scope.subscription,
            "additionalRegions": [],
            "registryFqdns": {row.location: region},
        }
    )


async def _import(ctx: Context) -> Response:
    """Done when it is answered; the client then reads the version."""
    await sharing.import_asset(ctx.services, ctx.caller, ctx.scope, await ctx.request.json())
    return Response(status_code=200)


async def _upload(ctx: Context) -> Response:
    """A container of its own, and a SAS that opens only that. 409 says that the version is there already."""
    s, name, version = ctx.services, ctx.params["name"], ctx.params["version"]
    kind, _ = await _asset_of(ctx)
    there = await s.store.read(lambda read: read.get(version_key(ctx.scope, kind, name, version)))
    if there is not None:
        raise Conflict(
            f"{kind.label} {name!r} version {version!r} exists in registry {ctx.scope.registry!r}.",
            "VersionImmutable",
            version,
        )
    upload = await assets.start_pending_upload(s, ctx.scope, kind, name, version)
    return _reference(ctx, upload.account, upload.container, workspace_assets.UPLOAD_PERMISSIONS)


async def _download(ctx: Context) -> Response:
    """A SAS to read the container that the version lies in, which has nothing else in it."""
    s, name, version = ctx.services, ctx.params["name"], ctx.params["version"]
    kind, _ = await _asset_of(ctx)
    row = await assets.get_version(s, ctx.scope, kind, name, version)
    uri = parse_uri(str(decode_object(row.spec).get(kind.located) or "-"), s.addresses.data_netloc)
    if not isinstance(uri, BlobUrl) or not uri.account:
        raise NotFound(
            f"{kind.label} {name!r} version {version!r} has no files in the registry.", target=name
        )
    return _reference(ctx, uri.account, uri.container, "rl", uri.path)


async def _asset_of(ctx: Context) -> tuple[AssetKind, dict[str, Any]]:
    """The kind that the body's `assetId` names, which must be the path's asset in this registry."""
    body = await ctx.request.json()
    given = str(body.get("assetId") or "")
    uri = parse_uri(given or "-")
    kind = KINDS.get(uri.kind.lower()) if isinstance(uri, RegistryUri) else None
    same = isinstance(uri, RegistryUri) and (uri.registry.casefold(), uri.name, uri.version) == (
        ctx.scope.registry.casefold(),
        ctx.params["name"],
        ctx.params["version"],
    )
    if kind is None or not same:
        raise InvalidRequest(
            f"assetId {given!r} is not that of {ctx.params['name']!r} version {ctx.params['version']!r} in "
            f"registry {ctx.scope.registry!r}.",
            target="assetId",
        )
    return kind, body


def _reference(ctx: Context, account: str, container: str, letters: str, path: str = "") -> Response:
    s = ctx.services
    holder = signer_of(ctx.caller, ctx.decision)
    expiry = s.clock.now() + READ_HOURS * 3_600_000_000
    sas = make_sas(
        s.storage_keys.key(account, holder), account, container, None, letters, expiry, holder=holder
    )
    address = blob_url(s.addresses.data, account, container)
    group = f"/subscriptions/{ctx.scope.subscription}/resourceGroups/{ctx.scope.group}/providers"
    return json_response(
        {
            "blobReferenceForConsumption": {
                "blobUri": blob_url(s.addresses.data, account, container, path) if path else address,
                "storageAccountArmId": f"{group}/Microsoft.Storage/storageAccounts/{account}",
                "credential": {"credentialType": "SAS", "sasUri": f"{address}?{sas}"},
            }
        }
    )
