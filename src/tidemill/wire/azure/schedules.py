"""`{workspace}/schedules`: translation between ARM's shape and app.schedules.schedules.

Everything is done when it is answered; a PUT and a DELETE are long-running operations all the same, because
clients wait for those.
"""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.rows.codec import encode
from tidemill.app.schedules import schedule_runs, schedules
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Resource
from tidemill.wire.arm import operations
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.arm.etag import check_conditions
from tidemill.wire.arm.paging import next_link, read_page, split_page
from tidemill.wire.http import Context, Route, bytes_response, json_response

BASE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/schedules"
ACTION = f"{PROVIDER}/workspaces/schedules"
VIEWS = {"enabledonly": schedules.ENABLED, "disabledonly": schedules.DISABLED, "all": ""}


def routes() -> list[Route]:
    one = BASE + "/{name}"
    return [
        Route("GET", BASE, f"{ACTION}/read", _list),
        Route("GET", one, f"{ACTION}/read", _get),
        Route("PUT", one, f"{ACTION}/write", _put),
        Route("DELETE", one, f"{ACTION}/delete", _delete),
        Route("POST", one + "/trigger", f"{ACTION}/trigger/action", _trigger),
    ]


async def _list(ctx: Context) -> Response:
    page = read_page(ctx.request)
    rows = await schedules.list_of(
        ctx.services, ctx.scope, state=view_of(ctx), limit=page.limit + 1, after=page.after
    )
    shown, after = split_page(rows, page)
    return bytes_response(render_list(map(_render, shown), next_link(ctx, after)))


def view_of(ctx: Context) -> str:
    """The state that `listViewType` asks for; enabled ones where it says nothing, as Azure does."""
    asked = ctx.request.query.get("listViewType", "EnabledOnly")
    # The SDK may send the name of its enumeration with it.
    view = VIEWS.get(asked.rsplit(".", 1)[-1].lower().replace("_", ""))
    if view is None:
        raise InvalidRequest(
            f"listViewType {asked!r} is not known. Use EnabledOnly, DisabledOnly or All.",
            target="listViewType",
        )
    return view


async def _get(ctx: Context) -> Response:
    return bytes_response(_render(await schedules.get(ctx.services, ctx.scope, ctx.params["name"])))


async def _put(ctx: Context) -> Response:
    name, body = ctx.params["name"], await ctx.request.json()
    if ctx.request.header("if-match") or ctx.request.header("if-none-match"):
        key = schedules.key_of(ctx.scope, name)
        check_conditions(ctx.request, await ctx.services.store.read(lambda read: read.get(key)))
    row, created = await schedules.put(ctx.services, ctx.caller, ctx.scope, name, body)
    headers = operations.operation_headers(ctx, operations.done(row), with_location=False)
    return bytes_response(_render(row), 201 if created else 200, headers=headers)


async def _delete(ctx: Context) -> Response:
    row = await schedules.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return Response(status_code=204) if row is None else operations.accepted(ctx, operations.gone(row))


async def _trigger(ctx: Context) -> Response:
    body = await ctx.request.json()
    asked = body.get("scheduleTime") or ""
    if not isinstance(asked, str):
        raise InvalidRequest(f"scheduleTime must be text, not {asked!r}.", target="scheduleTime")
    job = await schedule_runs.trigger(ctx.services, ctx.caller, ctx.scope, ctx.params["name"], asked)
    return json_response({"submissionId": job, "jobName": job, "scheduleActionType": "CreateJob"})


def _render(row: Resource) -> bytes:
    return render(row, extra_properties=encode({"provisioningState": "Succeeded"}))
