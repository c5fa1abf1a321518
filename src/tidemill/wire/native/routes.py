"""The native API (`/api/v1`): what ARM has no word for (docs/architecture.md)."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.jobs import job_logs, job_services, jobs, kept_nodes
from tidemill.app.views import compute_views, job_views, overview, parallel_progress
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import JobState
from tidemill.domain.units import parse_whole
from tidemill.wire.http import SIGNED_IN, Context, Route, json_response
from tidemill.wire.native.stream import still_allowed, stream_job

W = (
    "/api/v1/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.MachineLearningServices"
    "/workspaces/{ws}"
)
JOBS = "Microsoft.MachineLearningServices/workspaces/jobs/read"
CANCEL = "Microsoft.MachineLearningServices/workspaces/jobs/cancel/action"
RUNS = "Microsoft.MachineLearningServices/workspaces/jobs/runs/write"  # what a job says of itself
COMPUTES = "Microsoft.MachineLearningServices/workspaces/computes/read"
MAX_WAIT_S = 60.0
_BATCHES = W + "/jobs/{name}/batches/{digest}/{number}"


def routes() -> list[Route]:
    return [
        Route("GET", "/api/v1/status", SIGNED_IN, status),
        Route("GET", "/api/v1/catalog/sizes", SIGNED_IN, sizes),
        Route("GET", W + "/jobs", JOBS, list_jobs, partial=True),
        Route("GET", W + "/jobs/{name}", JOBS, get_job),
        Route("GET", W + "/jobs/{name}/wait", JOBS, wait_job),
        Route("GET", W + "/jobs/{name}/stream", JOBS, stream_job),
        Route("GET", W + "/jobs/{name}/why", JOBS, why),
        Route("POST", W + "/jobs/{name}/release", CANCEL, release),
        Route("GET", _BATCHES, JOBS, read_batches),
        Route("POST", _BATCHES, RUNS, store_batches, reads=True),
        Route("GET", W + "/jobs/{name}/services", JOBS, list_services),
        Route("GET", W + "/jobs/{name}/logs", JOBS, list_logs),
        Route("GET", W + "/jobs/{name}/logs/{path:path}", JOBS, read_log),
        Route("GET", W + "/computes", COMPUTES, list_computes, partial=True),
        Route("GET", W + "/computes/{name}", COMPUTES, get_compute),
    ]


async def status(ctx: Context) -> Response:
    return json_response(await overview.status(ctx.services, ctx.caller))


async def sizes(ctx: Context) -> Response:
    region = ctx.request.query.get("region") or ctx.services.settings.region
    return json_response({"value": overview.sizes(ctx.services, region)})


async def list_jobs(ctx: Context) -> Response:
    query = ctx.request.query
    limit = whole(query.get("limit", "50"), "limit", 1, 1000)
    states = [state for state in query.get("state", "").split(",") if state]
    archived = {"": False, "false": False, "true": True, "all": None}.get(query.get("archived", ""), False)
    known = {state.value.lower(): state.value for state in JobState}
    wanted: list[str] = []
    for state in states:
        if state.lower() not in known:
            raise InvalidRequest(
                f"state {state!r} is not a job state. Use {', '.join(known.values())}.", target="state"
            )
        wanted.append(known[state.lower()])
    rows = await jobs.list_jobs(
        ctx.services,
        ctx.scope,
        archived=archived,
        states=wanted,
        limit=limit + 1,
        after=query.get("after") or None,
        parent_uid=await _parent(ctx, query.get("parent", "")),
        granted=ctx.part.granted if ctx.part is not None else None,
    )
    following = rows[limit - 1].uid if len(rows) > limit else None
    value = await job_views.summaries(ctx.services, rows[:limit])
    return json_response({"value": value, "next": following})


async def _parent(ctx: Context, name: str) -> str | None:
    """`parent=NAME`: its children; `*`: children too; else jobs that no other one started."""
    if name in ("", "*"):
        return None if name else ""
    return (await jobs.get(ctx.services, ctx.scope, name)).uid


def whole(text: str, name: str, low: int, high: int) -> int:
    found = parse_whole(text)
    if found is None or not low <= found <= high:
        raise InvalidRequest(
            f"{name} is {text!r}: it must be a whole number from {low} to {high}.", target=name
        )
    return found


async def get_job(ctx: Context) -> Response:
    row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
    return json_response(await job_views.detail(ctx.services, row))


async def wait_job(ctx: Context) -> Response:
    """Answers once the job is final, or as it is when the timeout passes."""
    text = ctx.request.query.get("timeout", "30")
    try:
        timeout = min(float(text), MAX_WAIT_S)
        if not timeout >= 0:  # also: not a number
            raise ValueError
    except ValueError:
        raise InvalidRequest(
            f"timeout is {text!r}: it must be seconds, at most 60.", target="timeout"
        ) from None
    row = await jobs.wait(ctx.services, ctx.scope, ctx.params["name"], timeout)
    await still_allowed(ctx)
    return json_response(await job_views.summary(ctx.services, row))


async def why(ctx: Context) -> Response:
    row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
    return json_response(await job_views.why(ctx.services, row))


async def release(ctx: Context) -> Response:
    """Nodes that a failed job keeps, before their time."""
    row = await kept_nodes.release_now(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return json_response(await job_views.summary(ctx.services, row))


async def read_batches(ctx: Context) -> Response:
    """A segment of what a parallel step has finished (app/views/parallel_progress.py)."""
    number = whole(ctx.params["number"], "number", 0, 99_999_999)
    given = ctx.params
    raw = await parallel_progress.segment(ctx.services, ctx.scope, given["name"], given["digest"], number)
    return Response(raw, media_type="application/x-ndjson")


async def store_batches(ctx: Context) -> Response:
    given, body = ctx.params, await ctx.request.body()
    number = None if given["number"] == "progress" else whole(given["number"], "number", 0, 99_999_999)
    await parallel_progress.store(
        ctx.services, ctx.caller, ctx.scope, given["name"], given["digest"], number, body
    )
    return Response(status_code=204)


async def list_services(ctx: Context) -> Response:
    row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
    node = whole(ctx.request.query.get("node", "0"), "node", 0, 10_000)
    value = [
        {
            "name": state.place.service.name,
            "type": state.place.service.type,
            "node": state.place.node,
            "port": state.place.port or None,
            "status": state.status,
            "reach": state.reach,
            "error": state.error or None,
            "key": state.place.key or None,
        }
        for state in await job_services.states(ctx.services, row, node)
    ]
    return json_response({"value": value})


async def list_logs(ctx: Context) -> Response:
    row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
    files = await job_logs.list_logs(ctx.services, row)
    return json_response({"value": [{"path": file.path, "size": file.size} for file in files]})


async def read_log(ctx: Context) -> Response:
    row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
    offset = whole(ctx.request.query.get("offset", "0"), "offset", 0, 2**62)
    limit = whole(ctx.request.query.get("limit", str(job_logs.CHUNK)), "limit", 1, 16 * job_logs.CHUNK)
    raw = await job_logs.read_log(ctx.services, row, ctx.params["path"], offset, limit)
    headers = {"x-tidemill-next-offset": str(offset + len(raw))}
    return Response(raw, headers=headers, media_type="text/plain; charset=utf-8")


async def list_computes(ctx: Context) -> Response:
    return json_response({"value": await compute_views.summaries(ctx.services, ctx.scope, ctx.part)})


async def get_compute(ctx: Context) -> Response:
    return json_response(await compute_views.detail(ctx.services, ctx.scope, ctx.params["name"]))
