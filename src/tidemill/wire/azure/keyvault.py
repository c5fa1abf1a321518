"""Key Vault's secrets protocol over a workspace's secrets, for the unmodified azure-keyvault-secrets client:

    SecretClient(f"{https}/keyvault{workspace id}", credential, verify_challenge_resource=False)

https://learn.microsoft.com/rest/api/keyvault/secrets. The client first asks without a token and reads from
the 401 for whom to get one. It wants ids of two or three segments, so they are not below the vault's address.
Deleting is final (no soft delete), as of a vault without it; the only date of a version is its creation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from starlette.responses import Response

from tidemill.app.people import secretstore
from tidemill.app.people.secretstore import ACTION, GET_ACTION, Secret
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import PROVIDER
from tidemill.domain.secretrefs import SecretRef
from tidemill.wire.arm.paging import next_link, read_page
from tidemill.wire.http import Context, Route, json_response

BASE = f"/keyvault/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/secrets"


def routes() -> list[Route]:
    one, version = BASE + "/{name}", BASE + "/{name}/{version}"
    return [
        Route("GET", BASE, f"{ACTION}/read", _list),
        Route("GET", one + "/versions", f"{ACTION}/read", _versions),
        Route("GET", one, GET_ACTION, _get),
        Route("GET", version, GET_ACTION, _get, resource="secrets/{name}"),
        Route("PUT", one, f"{ACTION}/write", _put),
        Route("PATCH", version, f"{ACTION}/write", _patch, resource="secrets/{name}"),
        Route("DELETE", one, f"{ACTION}/delete", _delete),
    ]


async def _list(ctx: Context) -> Response:
    page = read_page(ctx.request)
    found = await secretstore.list_of(ctx.services, ctx.scope, limit=page.limit + 1, after=page.after)
    shown = found[: page.limit]
    link = next_link(ctx, shown[-1].name) if len(found) > page.limit else None
    return _reply({"value": [_bundle(ctx, secret, versioned=False) for secret in shown], "nextLink": link})


async def _versions(ctx: Context) -> Response:
    found = await secretstore.versions_of(ctx.services, ctx.scope, ctx.params["name"])
    return _reply({"value": [_bundle(ctx, secret) for secret in found], "nextLink": None})


async def _get(ctx: Context) -> Response:
    ref = SecretRef(ctx.params["name"], ctx.params.get("version", ""))
    value = await secretstore.value_of(ctx.services, ctx.scope, ref)
    return _reply({**_bundle(ctx, value.secret), "value": value.text})


async def _put(ctx: Context) -> Response:
    body = await ctx.request.json()
    value, tags = body.get("value"), body.get("tags") or {}
    if not isinstance(value, str):
        raise InvalidRequest("The body has no 'value', or it is no text.", target="value")
    if not isinstance(tags, Mapping):
        raise InvalidRequest("'tags' must be an object.", target="tags")
    scope, name = ctx.scope, ctx.params["name"]
    made = await secretstore.put(
        ctx.services,
        ctx.caller,
        scope,
        name,
        value,
        content_type=str(body.get("contentType") or ""),
        tags={str(key): str(text) for key, text in cast(Mapping[Any, Any], tags).items()},
    )
    if _enabled(body) is False:
        made = await secretstore.enable(ctx.services, ctx.caller, scope, name, made.version, False)
    return _reply({**_bundle(ctx, made), "value": value})


async def _patch(ctx: Context) -> Response:
    enabled = _enabled(await ctx.request.json())
    if enabled is None:
        raise InvalidRequest(
            "Only attributes.enabled of a version can be changed; set the secret again for the rest.",
            target="attributes",
        )
    name, version = ctx.params["name"], ctx.params["version"]
    changed = await secretstore.enable(ctx.services, ctx.caller, ctx.scope, name, version, enabled)
    return _reply(_bundle(ctx, changed))


async def _delete(ctx: Context) -> Response:
    gone = await secretstore.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return _reply(_bundle(ctx, gone))


def _enabled(body: Mapping[str, Any]) -> bool | None:
    attributes = body.get("attributes")
    value = cast(Mapping[str, Any], attributes).get("enabled") if isinstance(attributes, Mapping) else None
    return value if isinstance(value, bool) else None


def _bundle(ctx: Context, secret: Secret, *, versioned: bool = True) -> dict[str, Any]:
    created = secret.created_at // 1_000_000
    address = f"{ctx.services.addresses.https}/secrets/{secret.name}"
    return {
        "id": f"{address}/{secret.version}" if versioned else address,
        "contentType": secret.content_type or None,
        "tags": secret.tags,
        "attributes": {
            "enabled": secret.enabled,
            "created": created,
            "updated": created,
            "recoveryLevel": "Purgeable",
            "recoverableDays": 0,
        },
    }


def _reply(value: Mapping[str, Any]) -> Response:
    return json_response(value, headers={"Cache-Control": "no-store"})
