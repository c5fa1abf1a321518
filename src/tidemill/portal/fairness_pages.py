"""Who waits, in which order and why; who holds what of which quota, and when it is given back."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.views import fairness
from tidemill.app.views.fairness import READ_JOBS
from tidemill.domain.errors import TidemillError
from tidemill.domain.units import parse_whole
from tidemill.portal.frame import W, around, computes_seen, is_fragment, live
from tidemill.wire.http import Context, Route

MOST_SHOWN = 200  # of the queue
MOST_NODES = 10_000


def routes() -> list[Route]:
    return [
        Route("GET", f"{W}/queue", READ_JOBS, queue_page),
        Route("GET", f"{W}/quotas", READ_JOBS, quotas_page),
    ]


async def queue_page(ctx: Context) -> Response:
    """`?all=1`: also of other workspaces. Of jobs that one may not read only the size and the times."""
    frame = await around(ctx, "queue")
    everywhere = bool(ctx.request.query.get("all"))
    only = None if everywhere else ctx.scope
    # One more than is shown tells whether there are more.
    lines = await fairness.queue(ctx.services, ctx.caller, only, "", MOST_SHOWN + 1)
    values = {
        **frame,
        "everywhere": everywhere,
        "lines": lines[:MOST_SHOWN],
        "more": len(lines) > MOST_SHOWN,
        "most": MOST_SHOWN,
    }
    return live(ctx, f"{frame['base']}/queue{'?all=1' if everywhere else ''}", "queue", values)


async def quotas_page(ctx: Context) -> Response:
    """`?job=`, or `?compute=&size=&nodes=&team=`: each quota that holds for it, as an equation."""
    frame = await around(ctx, "quotas")
    values: dict[str, Any] = {**frame, "rules": await fairness.held(ctx.services, ctx.caller)}
    if not is_fragment(ctx.request):  # the answer stays as it is while the rest is refreshed
        values |= await _asked(ctx)
    return live(ctx, f"{frame['base']}/quotas", "quotas", values)


async def _asked(ctx: Context) -> dict[str, Any]:
    query = {name: text.strip()[:200] for name, text in ctx.request.query.items()}
    asked = {name: query.get(name, "") for name in ("job", "compute", "size", "nodes", "team")}
    found: dict[str, Any] = {
        "asked": asked,
        "computes": await computes_seen(ctx),
        "said": None,
        "problem": "",
    }
    if not (asked["job"] or asked["compute"] or asked["size"]):
        return found
    nodes = parse_whole(asked["nodes"] or "1")
    try:
        if nodes is None or not 1 <= nodes <= MOST_NODES:
            found["problem"] = f"Nodes is {asked['nodes']!r}: it must be a whole number, at least 1."
        else:
            ask = fairness.Ask(asked["job"], asked["compute"], asked["size"], nodes, asked["team"])
            found["said"] = await fairness.explain(ctx.services, ctx.caller, ctx.scope, ask)
    except TidemillError as error:
        found["problem"] = error.message
    return found
