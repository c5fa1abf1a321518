"""Container groups in the native API: what they cost, why one does not run, lines into one."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.containers import container_looking
from tidemill.app.containers.container_looking import EXEC, PROVIDER, Target
from tidemill.app.views import container_views
from tidemill.domain import looking
from tidemill.wire.http import UPGRADE, Context, Route, Upgrade, json_response
from tidemill.wire.talking import Place, Talk, session, to_port

GROUPS = "/api/v1/subscriptions/{sub}/resourceGroups/{rg}/containerGroups"
ONE = GROUPS + "/{name}"


def routes() -> list[Route]:
    return [
        Route("GET", GROUPS, f"{PROVIDER}/read", _list),
        Route("GET", ONE, f"{PROVIDER}/read", _get),
        Route("GET", ONE + "/why", f"{PROVIDER}/read", _why),
        Route(UPGRADE, ONE + "/exec", EXEC, _exec),
        Route(UPGRADE, ONE + "/ports/{port}", EXEC, _forward),
    ]


async def _list(ctx: Context) -> Response:
    return json_response({"value": await container_views.summaries(ctx.services, ctx.scope)})


async def _get(ctx: Context) -> Response:
    return json_response(await container_views.detail(ctx.services, ctx.scope, ctx.params["name"]))


async def _why(ctx: Context) -> Response:
    return json_response(await container_views.why(ctx.services, ctx.scope, ctx.params["name"]))


async def _exec(ctx: Context) -> Response:
    """A process inside a container that runs: messages in domain/looking.py. `container`: where there are
    several."""
    s, name = ctx.services, ctx.params["name"]
    target = await container_looking.target_of(s, ctx.scope, name, ctx.request.query.get("container", ""))
    place = _place(ctx, target)
    return Upgrade(
        lambda socket: Talk(ctx, place, socket, "a session").hold(
            lambda talk: session(talk, target.node_id, target.task, "container", "ContainerNotRunning")
        )
    )


async def _forward(ctx: Context) -> Response:
    """The bytes of one connection to a port of the group's loopback: any of its containers may listen."""
    port = looking.port(ctx.params["port"])
    target = await container_looking.any_of(ctx.services, ctx.scope, ctx.params["name"])
    return await to_port(ctx, _place(ctx, target), target.node_id, target.task, port)


def _place(ctx: Context, target: Target) -> Place:
    group = target.seen.group.key.name
    return Place(
        EXEC,
        f"providers/{PROVIDER}/{group}",
        lambda: container_looking.check_still(ctx.services, ctx.caller, EXEC, target),
    )
