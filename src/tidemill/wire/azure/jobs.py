"""`{workspace}/jobs` of Microsoft.MachineLearningServices: translation between ARM's shape and app.jobs."""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from tidemill.app.jobs import endings, jobs
from tidemill.app.rows.codec import decode_object, encode, job_status
from tidemill.app.rows.shown import Shown
from tidemill.app.services import Services
from tidemill.app.views.job_views import page_of
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import JobState, Resource
from tidemill.domain.units import parse_whole
from tidemill.store.api import ResourceQuery
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.http import Context, Route, bytes_response

TYPE = f"{PROVIDER}/workspaces/jobs"
BASE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/jobs"
ACTION = TYPE
PAGE = 100


def routes() -> list[Route]:
    reads = _Reads()
    return [
        Route("GET", BASE, f"{ACTION}/read", reads.list_jobs, partial=True),
        Route("GET", BASE + "/{name}", f"{ACTION}/read", reads.get_job),
        Route("PUT", BASE + "/{name}", f"{ACTION}/write", put_job),
        Route("PATCH", BASE + "/{name}", f"{ACTION}/write", patch_job),
        Route("DELETE", BASE + "/{name}", f"{ACTION}/delete", delete_job),
        Route("POST", BASE + "/{name}/cancel", f"{ACTION}/cancel/action", cancel_job),
    ]


async def put_job(ctx: Context) -> Response:
    row, created = await jobs.submit(
        ctx.services, ctx.caller, ctx.scope, ctx.params["name"], await ctx.request.json()
    )
    return bytes_response(render_job(ctx.services, row), 201 if created else 200)


class _Reads:
    """The two reads that clients repeat while they wait; they share what was rendered."""

    def __init__(self) -> None:
        self._shown = Shown()

    async def get_job(self, ctx: Context) -> Response:
        s, name = ctx.services, ctx.params["name"]
        body = await self._shown.one(s.store, jobs.key_of(ctx.scope, name), partial(render_job, s))
        if body is None:
            body = render_job(s, await jobs.get(s, ctx.scope, name))  # says what is missing
        return bytes_response(body)

    async def list_jobs(self, ctx: Context) -> Response:
        s, asked = ctx.services, ctx.request.query
        view = asked.get("listViewType", "ActiveOnly").rsplit(".", 1)[-1].lower().replace("_", "")
        archived = {"activeonly": False, "archivedonly": True, "all": None}.get(view, False)
        after = asked.get("$skipToken") or asked.get("$skip") or None
        limit = page_size(asked.get("$top", ""))
        granted = ctx.part.granted if ctx.part is not None else None
        query = ResourceQuery(
            jobs.TYPE,
            ctx.scope,
            archived=archived,
            limit=limit + 1,
            after=after,
            granted=granted,
            parent_uid="",
        )
        found = await self._shown.page(s.store, query, partial(render_job, s))
        link = None
        if len(found) > limit:
            del found[limit:]
            link = (
                f"{s.addresses.https}{ctx.scope.arm_id}/jobs?api-version={ctx.request.api_version}"
                f"&listViewType={view}&$top={limit}&$skipToken={found[-1][0]}"
            )
        return bytes_response(render_list([body for _, body in found], link))


def page_size(text: str) -> int:
    if not text:
        return PAGE
    number = parse_whole(text)
    if number is None or not 1 <= number <= 1000:
        raise InvalidRequest(f"$top is {text!r}: it must be a whole number from 1 to 1000.", target="$top")
    return number


async def patch_job(ctx: Context) -> Response:
    body = await ctx.request.json()
    changes = body.get("properties", body)
    row = await jobs.patch(ctx.services, ctx.caller, ctx.scope, ctx.params["name"], changes)
    return bytes_response(render_job(ctx.services, row))


async def delete_job(ctx: Context) -> Response:
    deleted = await endings.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return Response(status_code=200 if deleted else 204)


async def cancel_job(ctx: Context) -> Response:
    await endings.cancel(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return Response(status_code=200)


def render_job(services: Services, row: Resource) -> bytes:
    """ARM's shape. The stored properties are joined with the live ones, not decoded."""
    netloc = services.addresses.https.split("://", 1)[1]
    # The SDK appends `&tid=…` to the page's address: it must have a query.
    tracking = f"azureml://{netloc}/mlflow/v1.0{row.key.scope.arm_id}"
    spec = decode_object(row.spec) if b'"services"' in row.spec else {}
    live: dict[str, object] = {
        "status": row.state,
        "provisioningState": "Succeeded",
        "services": {
            **(spec.pop("services", None) or {}),
            "Studio": {"jobServiceType": "Studio", "endpoint": f"{page_of(services, row)}?from=sdk"},
            "Tracking": {"jobServiceType": "Tracking", "endpoint": tracking},
        },
    }
    if JobState(row.state) is JobState.FAILED:
        error = job_status(row.status).progress.error
        if error is not None:
            live["error"] = {"code": error.code, "message": error.message}
    return render(
        row,
        f"{row.key.scope.arm_id}/jobs/{row.key.name}",
        TYPE,
        encode(live),
        properties=_shown(encode(spec) if spec else row.spec),
    )


def _shown(spec: bytes) -> bytes:
    """Without an output named `default`: in Azure's answers that is where the run's artifacts lie, and the
    SDK's stream reads the logs there instead of following them."""
    if b'"default"' not in spec:
        return spec
    properties = decode_object(spec)
    outputs = properties.get("outputs") or {}
    return encode({**properties, "outputs": {k: v for k, v in outputs.items() if k != "default"}})
