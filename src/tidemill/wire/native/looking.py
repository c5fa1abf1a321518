"""Looking inside over a WebSocket: a process in a running job or on a node, a port of a job's loopback.

The messages: domain/looking.py. Who, when and for how long is in the activity log; what passed never is.
"""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.jobs import looking as jobs
from tidemill.app.jobs import node_visits
from tidemill.domain import looking
from tidemill.domain.errors import Conflict
from tidemill.engines.base import EngineError
from tidemill.wire.http import UPGRADE, Context, Route, Upgrade
from tidemill.wire.native.routes import W, whole
from tidemill.wire.talking import Place, Talk, first_of, held, session, to_port, wanted_of


def routes() -> list[Route]:
    return [
        Route(UPGRADE, W + "/jobs/{name}/exec", looking.ACTION, exec_job),
        Route(UPGRADE, W + "/computes/{name}/nodes/{node}/exec", looking.NODE_ACTION, exec_node),
        Route(UPGRADE, W + "/jobs/{name}/ports/{port}", looking.ACTION, forward_port),
    ]


async def exec_job(ctx: Context) -> Response:
    """Inside it while it runs; on a node that stays when it has failed."""
    s, name = ctx.services, ctx.params["name"]
    number = whole(ctx.request.query.get("node", "0"), "node", 0, 10_000)
    kept = await node_visits.target_in_job(s, ctx.caller, ctx.scope, name, number)
    if kept is not None:
        below = f"jobs/{name}"
        place = Place(
            looking.ACTION,
            below,
            lambda: node_visits.check_still(s, ctx.caller, ctx.scope, kept, looking.ACTION, below),
        )
        return Upgrade(lambda socket: Talk(ctx, place, socket, "a look").hold(lambda t: _visit(t, kept)))
    target = await _target(ctx)
    place = _place(ctx, target)
    return Upgrade(
        lambda socket: Talk(ctx, place, socket, "a session").hold(
            lambda talk: session(talk, target.node_id, target.task, "job", "JobNotRunning")
        )
    )


async def exec_node(ctx: Context) -> Response:
    s, node = ctx.services, ctx.params["node"]
    target = await node_visits.target_of(s, ctx.caller, ctx.scope, ctx.params["name"], node)
    place = Place(
        looking.NODE_ACTION,
        f"computes/{target.spec.name}/nodes/{node}",
        lambda: node_visits.check_still(s, ctx.caller, ctx.scope, target),
    )
    return Upgrade(lambda socket: Talk(ctx, place, socket, "a shell").hold(lambda t: _visit(t, target)))


async def forward_port(ctx: Context) -> Response:
    port = looking.port(ctx.params["port"])
    target = await _target(ctx)
    return await to_port(ctx, _place(ctx, target), target.node_id, target.task, port)


async def _target(ctx: Context) -> jobs.Target:
    node = whole(ctx.request.query.get("node", "0"), "node", 0, 10_000)
    return await jobs.target_of(ctx.services, ctx.caller, ctx.scope, ctx.params["name"], node)


def _place(ctx: Context, target: jobs.Target) -> Place:
    resource = f"jobs/{target.row.key.name}"
    return Place(looking.ACTION, resource, lambda: jobs.check_still(ctx.services, ctx.caller, target))


async def _visit(talk: Talk, target: node_visits.Target) -> str:
    """A process on a node. -> how it ended."""
    s = talk.ctx.services
    wanted = await wanted_of(talk)
    visit = await node_visits.begin(s, talk.ctx.caller, target)
    why = "the line to it was lost"
    try:
        code = await first_of(
            held(talk, visit.node_id, visit.task, wanted), node_visits.keep(s, target, visit)
        )
        ended = await node_visits.why_ended(s, visit, code)
        why = ended or f"exit code {code}"
        await talk.end({"error": {"code": "SessionEnded", "message": ended}} if ended else {"exit": code})
        return why
    except EngineError as error:
        why = visit.ended or str(error)
        raise Conflict(why, "SessionEnded") from error
    finally:
        await node_visits.end(s, visit, why)
