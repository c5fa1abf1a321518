"""`{workspace}/datastores`: translation between ARM's shape and app.assets.datastores."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.assets import datastores
from tidemill.app.assets.storage import account_for
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.services import Services
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Resource
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.arm.etag import etag
from tidemill.wire.arm.paging import next_link, read_page
from tidemill.wire.http import Context, Route, bytes_response, json_response

BASE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/datastores"
ACTION = f"{PROVIDER}/workspaces/datastores"


def routes() -> list[Route]:
    one = BASE + "/{name}"
    return [
        Route("GET", BASE, f"{ACTION}/read", list_datastores),
        Route("GET", one, f"{ACTION}/read", get_datastore),
        Route("PUT", one, f"{ACTION}/write", put_datastore),
        Route("DELETE", one, f"{ACTION}/delete", delete_datastore),
        Route("POST", one + "/listSecrets", f"{ACTION}/listSecrets/action", list_secrets),
    ]


async def render_datastores(services: Services, rows: list[Resource]) -> list[bytes]:
    if not rows:
        return []
    account = await services.store.read(lambda read: account_for(read, rows[0].key.scope))
    return [render_datastore(services, row, account) for row in rows]


def render_datastore(services: Services, row: Resource, account: str) -> bytes:
    """Our own account is shown as the SDK must see it: `localhost:8445/tm01` (it makes a URL of it)."""
    spec = decode_object(row.spec)
    if spec.get("accountName") == account:
        spec["accountName"] = f"{services.addresses.data_netloc}/{account}"
    spec["subscriptionId"], spec["resourceGroup"] = row.key.scope.subscription, row.key.scope.group
    return render(row, properties=encode(spec), extra=encode({"etag": etag(row)}))


async def list_datastores(ctx: Context) -> Response:
    query = ctx.request.query
    page = read_page(ctx.request)
    default = {"true": True, "false": False}.get(query.get("isDefault", "").lower())
    rows = list(
        await datastores.list_of(
            ctx.services,
            ctx.scope,
            default=default,
            names=[name for name in query.get("names", "").split(",") if name],
            ascending=query.get("orderByAsc", "").lower() != "false",
            limit=page.limit + 1,
            after=page.after,
        )
    )
    shown = rows[: page.limit]
    # `count` is a page's size, not the most there may be: the client always sends 30.
    after = shown[-1].uid if len(rows) > page.limit else None
    return bytes_response(render_list(await render_datastores(ctx.services, shown), next_link(ctx, after)))


async def get_datastore(ctx: Context) -> Response:
    row = await datastores.get(ctx.services, ctx.scope, ctx.params["name"])
    return bytes_response((await render_datastores(ctx.services, [row]))[0])


async def put_datastore(ctx: Context) -> Response:
    row, created = await datastores.put(
        ctx.services, ctx.caller, ctx.scope, ctx.params["name"], await ctx.request.json()
    )
    return bytes_response((await render_datastores(ctx.services, [row]))[0], 201 if created else 200)


async def delete_datastore(ctx: Context) -> Response:
    gone = await datastores.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return Response(status_code=200 if gone else 204)


async def list_secrets(ctx: Context) -> Response:
    return json_response(
        await datastores.secrets_of(ctx.services, ctx.caller, ctx.decision, ctx.scope, ctx.params["name"])
    )
