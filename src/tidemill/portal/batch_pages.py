"""A batch endpoint with its deployments and jobs; the list of them is on the page of all endpoints."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from tidemill.app.people import access
from tidemill.app.people.access import AccessDenied
from tidemill.app.serving import batch_endpoints
from tidemill.app.views import batch_views
from tidemill.app.views.batch_views import ACTION
from tidemill.domain.errors import TidemillError
from tidemill.portal import pages
from tidemill.portal.frame import W, around, is_fragment, live
from tidemill.wire.http import Context, Route

READ, WRITE = f"{ACTION}/read", f"{ACTION}/write"
RESOURCE = "batchEndpoints/{endpoint}"  # where roles are given


def routes() -> list[Route]:
    one = f"{W}/batch-endpoints/{{endpoint}}"
    return [
        Route("GET", one, READ, endpoint_page, resource=RESOURCE),
        Route("POST", f"{one}/default", WRITE, make_default, resource=RESOURCE),
    ]


async def seen(ctx: Context) -> list[dict[str, Any]]:
    """For the page of all endpoints: none where the caller may not read them all."""
    if not (await access.decide(ctx.services, ctx.caller, READ, ctx.scope)).allowed:
        return []
    return await batch_views.summaries(ctx.services, ctx.scope)


async def endpoint_page(ctx: Context) -> Response:
    return await _page(ctx)


async def _page(ctx: Context, *, problem: str = "", status: int = 200) -> Response:
    frame = await around(ctx, "endpoints")
    found = await batch_views.detail(ctx.services, ctx.caller, ctx.scope, ctx.params["endpoint"])
    here = _address(frame["base"], found["name"])
    below = f"batchEndpoints/{found['name']}"
    may_write = (await access.decide(ctx.services, ctx.caller, WRITE, ctx.scope, below)).allowed
    values = {**frame, "endpoint": found, "here": here, "problem": problem, "may_write": may_write}
    answer = live(ctx, here, "batch_endpoint", values)
    if not is_fragment(ctx.request):
        answer.status_code = status
    return answer


async def make_default(ctx: Context) -> Response:
    form = await ctx.request.form()
    changes = {"properties": {"defaults": {"deploymentName": form.get("deployment", "")}}}
    name = ctx.params["endpoint"]
    try:
        row = await batch_endpoints.patch(ctx.services, ctx.caller, ctx.scope, name, changes)
    except AccessDenied:
        raise
    except TidemillError as error:
        return await _page(ctx, problem=error.message, status=error.status)
    base = (await around(ctx, "endpoints"))["base"]
    return pages.redirect(_address(base, row.key.name))


def _address(base: str, name: str) -> str:
    return f"{base}/batch-endpoints/{quote(name, safe='')}"
