"""`/api/v1{W}/secrets`: a workspace's secrets, never their values (those leave by Key Vault's protocol)."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.people import secretstore
from tidemill.app.people.secretstore import ACTION, Secret
from tidemill.app.times import iso
from tidemill.domain.errors import InvalidRequest
from tidemill.wire.http import Context, Route, json_response
from tidemill.wire.native.routes import W


def routes() -> list[Route]:
    one = W + "/secrets/{name}"
    return [
        Route("GET", W + "/secrets", f"{ACTION}/read", list_secrets),
        Route("GET", one, f"{ACTION}/read", get_secret),
        Route("PUT", one, f"{ACTION}/write", put_secret),
        Route("DELETE", one, f"{ACTION}/delete", delete_secret),
    ]


async def list_secrets(ctx: Context) -> Response:
    found = await secretstore.list_of(ctx.services, ctx.scope)
    return json_response({"value": [view(secret) for secret in found]})


async def get_secret(ctx: Context) -> Response:
    found = await secretstore.versions_of(ctx.services, ctx.scope, ctx.params["name"])
    newest = next(secret for secret in found if secret.newest)
    return json_response({**view(newest), "versions": [view(secret) for secret in found]})


async def put_secret(ctx: Context) -> Response:
    body = await ctx.request.json()
    value = body.get("value")
    if not isinstance(value, str):
        raise InvalidRequest("The body has no 'value', or it is no text.", target="value")
    made = await secretstore.put(
        ctx.services,
        ctx.caller,
        ctx.scope,
        ctx.params["name"],
        value,
        content_type=str(body.get("content_type") or ""),
    )
    return json_response(view(made))


async def delete_secret(ctx: Context) -> Response:
    return json_response(
        view(await secretstore.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["name"]))
    )


def view(secret: Secret) -> dict[str, Any]:
    return {
        "name": secret.name,
        "version": secret.version,
        "enabled": secret.enabled,
        "newest": secret.newest,
        "content_type": secret.content_type,
        "created_at": iso(secret.created_at),
        "created_by": secret.created_by,
    }
