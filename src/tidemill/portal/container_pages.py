"""The container groups of a workspace's resource group; one group with its containers, logs and a shell."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from tidemill.app.containers import container_groups, container_looking
from tidemill.app.containers.container_looking import EXEC, PROVIDER
from tidemill.app.people import access
from tidemill.app.people.access import AccessDenied
from tidemill.app.views import container_views
from tidemill.domain.errors import TidemillError
from tidemill.domain.model import Scope
from tidemill.portal import pages
from tidemill.portal.frame import W, around, is_fragment, live
from tidemill.wire.http import Context, Route

READ, LOGS = f"{PROVIDER}/read", f"{PROVIDER}/containers/logs/read"
VERBS = {
    "start": (f"{PROVIDER}/start/action", "It starts."),
    "stop": (f"{PROVIDER}/stop/action", "It is being stopped."),
    "restart": (f"{PROVIDER}/restart/action", "It starts anew."),
}
SHOWN_LINES = 300


def routes() -> list[Route]:
    one = f"{W}/containers/{{group}}"
    return [
        Route("GET", f"{W}/containers", READ, list_page),
        Route("GET", one, READ, group_page),
        Route("GET", f"{one}/logs/{{container}}", LOGS, logs_part),
        *(Route("POST", f"{one}/{verb}", action, act) for verb, (action, _) in VERBS.items()),
    ]


async def _group_of(ctx: Context, action: str) -> Scope:
    """Groups belong to the resource group, and the page to a workspace of it: the right is asked for there.
    Raises AccessDenied."""
    scope = Scope(ctx.scope.subscription, ctx.scope.group)
    await access.authorise(ctx.services, ctx.caller, action, scope)
    return scope


async def list_page(ctx: Context) -> Response:
    scope = await _group_of(ctx, READ)
    frame = await around(ctx, "containers")
    found = await container_views.summaries(ctx.services, scope)
    return live(ctx, frame["base"] + "/containers", "containers", {**frame, "groups": found})


async def group_page(ctx: Context) -> Response:
    done = VERBS.get(ctx.request.query.get("done", ""), ("", ""))[1]
    return await _page(ctx, done=done)


async def _page(ctx: Context, *, done: str = "", problem: str = "", status: int = 200) -> Response:
    scope, s = await _group_of(ctx, READ), ctx.services
    frame = await around(ctx, "containers")
    found = await container_views.detail(s, scope, ctx.params["group"])
    name = quote(found["name"], safe="")
    here = f"{frame['base']}/containers/{name}"
    may = {
        verb: (await access.decide(s, ctx.caller, action, scope)).allowed
        for verb, (action, _) in VERBS.items()
    }
    values: dict[str, Any] = {
        **frame,
        "group": found,
        "here": here,
        "done": done,
        "problem": problem,
        "may": may,
        "may_enter": (await access.decide(s, ctx.caller, EXEC, scope)).allowed,
        "may_read_logs": (await access.decide(s, ctx.caller, LOGS, scope)).allowed,
        "line": f"/api/v1{scope.arm_id}/containerGroups/{name}/exec",
    }
    answer = live(ctx, here, "container_group", values)
    if not is_fragment(ctx.request):
        answer.status_code = status
    return answer


async def logs_part(ctx: Context) -> Response:
    """The last lines of a container, which ask for themselves again."""
    scope = await _group_of(ctx, LOGS)
    name, container = ctx.params["group"], ctx.params["container"]
    text = await container_looking.read_log(ctx.services, scope, name, container, SHOWN_LINES)
    mark = pages.fingerprint(text)
    if ctx.request.query.get("seen") == mark:
        return pages.unchanged()
    return pages.page("_endpoint_log.html", text=text, poll=f"{ctx.request.path}?seen={mark}")


async def act(ctx: Context) -> Response:
    verb = ctx.request.path.rsplit("/", 1)[-1].lower()
    scope, name = await _group_of(ctx, VERBS[verb][0]), ctx.params["group"]
    change = {
        "start": container_groups.start,
        "stop": container_groups.stop,
        "restart": container_groups.restart,
    }[verb]
    try:
        row = await change(ctx.services, ctx.caller, scope, name)
    except AccessDenied:
        raise
    except TidemillError as error:
        return await _page(ctx, problem=error.message, status=error.status)
    base = (await around(ctx, "containers"))["base"]
    return pages.redirect(f"{base}/containers/{quote(row.key.name, safe='')}?done={verb}")
