"""The endpoints of a workspace; one endpoint with its traffic, its logs and a console to try it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from tidemill.app.people import access
from tidemill.app.people.access import AccessDenied
from tidemill.app.rows.endpoint_rows import deployment_status, deployments_of, find_endpoint
from tidemill.app.serving import endpoints
from tidemill.app.views import deployment_logs, endpoint_calls, endpoint_views
from tidemill.domain.errors import TidemillError
from tidemill.portal import asset_links, batch_pages, pages
from tidemill.portal.frame import W, around, is_fragment, live
from tidemill.wire.http import Context, Route

ACTION = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints"
READ, WRITE, SCORE = f"{ACTION}/read", f"{ACTION}/write", f"{ACTION}/score/action"
LOGS = f"{ACTION}/deployments/getLogs/action"
RESOURCE = "onlineEndpoints/{endpoint}"  # where roles are given
DONE = {"traffic": "The traffic is shared out anew."}
SHOWN_LINES = 300
_SHARE = re.compile(r"(?P<kind>traffic|mirror)\.(?P<name>[A-Za-z0-9-]+)")


def routes() -> list[Route]:
    one = f"{W}/endpoints/{{endpoint}}"
    return [
        Route("GET", f"{W}/endpoints", READ, list_page, partial=True),
        Route("GET", one, READ, endpoint_page, resource=RESOURCE),
        Route("POST", f"{one}/traffic", WRITE, share_out, resource=RESOURCE),
        Route("GET", f"{one}/logs/{{name}}", LOGS, logs_part, resource=RESOURCE),
        Route("POST", f"{one}/test", SCORE, test, resource=RESOURCE, reads=True),
    ]


async def list_page(ctx: Context) -> Response:
    frame = await around(ctx, "endpoints")
    found = await endpoint_views.summaries(ctx.services, ctx.scope, ctx.part)
    values = {**frame, "endpoints": found, "batch_endpoints": await batch_pages.seen(ctx)}
    return live(ctx, frame["base"] + "/endpoints", "endpoints", values)


async def endpoint_page(ctx: Context) -> Response:
    done = DONE.get(ctx.request.query.get("done", ""), "")
    return await _page(ctx, done=done)


async def _page(ctx: Context, *, done: str = "", problem: str = "", status: int = 200) -> Response:
    frame = await around(ctx, "endpoints")
    found = await endpoint_views.detail(ctx.services, ctx.scope, ctx.params["endpoint"])
    here = f"{frame['base']}/endpoints/{quote(found['name'], safe='')}"
    values: dict[str, Any] = {
        **frame,
        "endpoint": found,
        "here": here,
        "links": await _links(ctx, found["name"]),
        "done": done,
        "problem": problem,
        "may_write": await _may(ctx, WRITE),
        "may_test": await _may(ctx, SCORE),
    }
    answer = live(ctx, here, "endpoint", values)
    if not is_fragment(ctx.request):
        answer.status_code = status
    return answer


async def _links(ctx: Context, endpoint: str) -> dict[str, dict[str, str]]:
    """deployment -> the pages of its model and its environment, "" where they have none."""
    rows = await ctx.services.store.read(
        lambda read: deployments_of(read, find_endpoint(read, ctx.scope, endpoint))
    )
    plans = {row.key.name: deployment_status(row).plan for row in rows}
    return {
        name: {
            "model": asset_links.model_of(plan),
            "environment": asset_links.environment_of(plan.environment, plan.spec.environment_id),
        }
        for name, plan in plans.items()
    }


async def _may(ctx: Context, action: str) -> bool:
    below = f"onlineEndpoints/{ctx.params['endpoint']}"
    return (await access.decide(ctx.services, ctx.caller, action, ctx.scope, below)).allowed


async def share_out(ctx: Context) -> Response:
    """`traffic.NAME=90`, `mirror.NAME=0`: what is not named gets none."""
    form = await ctx.request.form()
    shares: dict[str, dict[str, str]] = {"traffic": {}, "mirror": {}}
    for field, value in form.items():
        found = _SHARE.fullmatch(field)
        if found is not None:
            shares[found["kind"]][found["name"]] = value
    properties = {"traffic": shares["traffic"], "mirrorTraffic": shares["mirror"]}
    name = ctx.params["endpoint"]
    try:
        row = await endpoints.patch(ctx.services, ctx.caller, ctx.scope, name, {"properties": properties})
    except AccessDenied:
        raise
    except TidemillError as error:
        return await _page(ctx, problem=error.message, status=error.status)
    base = (await around(ctx, "endpoints"))["base"]
    return pages.redirect(f"{base}/endpoints/{quote(row.key.name, safe='')}?done=traffic")


async def logs_part(ctx: Context) -> Response:
    """The last lines of a deployment's instances, which ask for themselves again."""
    name, endpoint = ctx.params["name"], ctx.params["endpoint"]
    text = await deployment_logs.read(ctx.services, ctx.scope, endpoint, name, SHOWN_LINES)
    mark = pages.fingerprint(text)
    if ctx.request.query.get("seen") == mark:
        return pages.unchanged()
    return pages.page("_endpoint_log.html", text=text, poll=f"{ctx.request.path}?seen={mark}")


async def test(ctx: Context) -> Response:
    """`body` is sent as it is, to `deployment` if one is named."""
    form = await ctx.request.form()
    try:
        answer = await endpoint_calls.call(
            ctx.services,
            ctx.caller,
            ctx.scope,
            ctx.params["endpoint"],
            form.get("body", "").encode(),
            form.get("deployment", ""),
        )
    except AccessDenied:
        raise
    except TidemillError as error:
        return pages.page("_endpoint_answer.html", answer=None, problem=error.message)
    return pages.page("_endpoint_answer.html", answer=answer, problem="")
