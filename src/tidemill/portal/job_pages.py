"""The jobs of a workspace, and one job."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import Response

from tidemill.app.jobs import job_logs, jobs
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.views import job_search, job_views, pipeline_views
from tidemill.domain.model import JobState, Resource
from tidemill.domain.pipelines import drawing
from tidemill.domain.plan import COMMAND
from tidemill.portal import asset_links, pages, phases, sweep_picture, words
from tidemill.portal.frame import around, base_of, is_fragment
from tidemill.wire.http import Context

TAIL = 128 * 1024  # bytes of an ended job's log that its page shows
MOST_TRIALS = 200  # in the table of a sweep, the best first
FILES = 16  # log files shown; a job of many processes has one for each
GROUP_LABELS = {
    "": "All",
    "running": "Running",
    "waiting": "Waiting",
    "completed": "Completed",
    "failed": "Failed",
    "canceled": "Canceled",
}


async def list_page(ctx: Context) -> Response:
    query = ctx.request.query
    chosen = query.get("state", "")
    group = chosen if chosen in GROUP_LABELS else ""
    text, after = query.get("q", "").strip()[:200], query.get("after", "")
    frame = await around(ctx, "jobs")
    granted = ctx.part.granted if ctx.part is not None else None
    found = await job_search.search(
        ctx.services, ctx.scope, group=group, text=text, after=after, granted=granted
    )
    here = frame["base"] + "/jobs"

    def address(state: str = group, older: str = "") -> str:
        parts = {"state": state, "q": text, "after": older}
        given = urlencode({key: value for key, value in parts.items() if value})
        return f"{here}?{given}" if given else here

    counts = await job_search.counts(ctx.services, ctx.scope, granted)
    table = pages.fragment(
        "_jobs.html",
        **frame,
        jobs=await job_views.summaries(ctx.services, found.rows),
        chips=[(label, counts[name], address(name), name == group) for name, label in GROUP_LABELS.items()],
        state=group,
        text=text,
        after=after,
        older=address(older=found.following) if found.following else "",
        newest=address(),
        total=counts[""],
    )
    mark = pages.fingerprint(table)
    if is_fragment(ctx.request) and query.get("seen") == mark:
        return pages.unchanged()
    seen = urlencode({"state": group, "q": text, "after": after, "seen": mark})
    values = {**frame, "table": table, "poll": f"{here}?{seen}", "state": group, "text": text, "here": here}
    if is_fragment(ctx.request):
        return pages.page("_jobs_poll.html", **values)
    return pages.page("jobs.html", **values)


async def job_page(ctx: Context) -> Response:
    row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
    values = await _job_values(ctx, row)
    # The lists change seldom: they are sent again only then, so that scrolling and selecting in them works.
    lists = pages.fragment("_job_lists.html", **values, swap=False)
    mark = pages.fingerprint(lists)
    values |= {"poll": f"{values['here']}?seen={mark}", "lists": lists}
    if is_fragment(ctx.request):
        changed = ctx.request.query.get("seen") != mark
        body = pages.fragment("_job_top.html", **values)
        return pages.html(body + (pages.fragment("_job_lists.html", **values, swap=True) if changed else ""))
    values["logs"] = await _logs(ctx, row) if values["final"] else []
    return pages.page("job.html", **values)


async def _job_values(ctx: Context, row: Resource) -> dict[str, Any]:
    frame = await around(ctx, "jobs")
    job = await job_views.detail(ctx.services, row)
    final = JobState(row.state).final
    why = None if final else await job_views.why(ctx.services, row)
    ended = words.moment(job["ended_at"])
    until = ended.timestamp() if ended else frame["now"] / 1e6
    attempts = job["attempts_list"]
    held = len(attempts[-1]["nodes"]) if attempts and job["price"]["open"] else 0
    hourly = job["price"]["usd_hour"]
    given = str(decode_object(row.spec).get("environmentId") or "")
    return {
        **frame,
        "job": job,
        "final": final,
        "why": why,
        **_sweep_values(job["sweep"]),
        "environment_page": asset_links.environment_of(job_status(row.status).plan.environment, given),
        "graph": _graph(job, f"{frame['base']}/jobs"),
        "picture": phases.draw(
            job["timeline"],
            until - row.created_at / 1e6,
            final,
            first="queue" if job["type"] == COMMAND else "run",
        ),
        "width": phases.WIDTH,
        "run_rate": hourly * held if held and hourly is not None else None,
        "here": f"{frame['base']}/jobs/{quote(row.key.name, safe='')}",
        "stream": f"/api/v1{ctx.scope.arm_id}/jobs/{quote(row.key.name, safe='')}/stream",
        "raw": f"/api/v1{ctx.scope.arm_id}/jobs/{quote(row.key.name, safe='')}/logs",
        "compute_page": f"{base_of(ctx.scope)}/computes/{quote(job['compute'], safe='')}",
    }


def _graph(job: dict[str, Any], base: str) -> str:
    """The picture of a pipeline's steps, "" for other jobs. Names are escaped in it."""
    if not job["steps"]:
        return ""
    return drawing.svg(pipeline_views.drawn(job["steps"], base), f"Steps of {job['display_name']}")


def _sweep_values(sweep: dict[str, Any] | None) -> dict[str, Any]:
    """The best first, those without a score last."""
    if sweep is None:
        return {"sweep": None}
    sign = -1 if sweep["goal"] == "maximize" else 1

    def place(trial: dict[str, Any]) -> tuple[bool, float, int]:
        score = trial["score"]
        return score is None, sign * (score or 0.0), trial["number"]

    order = sorted(sweep["trials"], key=place)
    return {"sweep": sweep, "sweep_picture": sweep_picture.draw(sweep), "sweep_order": order[:MOST_TRIALS]}


async def _logs(ctx: Context, row: Resource) -> list[dict[str, Any]]:
    """The ends of an ended job's log files, from a whole line on."""
    shown: list[dict[str, Any]] = []
    for file in (await job_logs.list_logs(ctx.services, row))[:FILES]:
        start = max(file.size - TAIL, 0)
        raw = await job_logs.read_log(ctx.services, row, file.path, start, TAIL)
        if start:
            start += raw.find(b"\n") + 1
            raw = raw[raw.find(b"\n") + 1 :]
        text = raw.decode("utf-8", "replace")
        shown.append({"path": file.path, "text": text, "skipped": start, "raw": quote(file.path)})
    return shown
