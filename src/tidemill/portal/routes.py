"""The portal's addresses. Pages read through the use cases, like every other dialect."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.people.access import JOB
from tidemill.app.times import iso
from tidemill.domain.errors import Forbidden, NotFound, Unauthenticated
from tidemill.portal import (
    access_pages,
    activity_pages,
    batch_pages,
    component_pages,
    compute_pages,
    container_pages,
    data_pages,
    doctor_pages,
    endpoint_pages,
    environment_pages,
    fairness_pages,
    job_pages,
    mlflow_pages,
    model_pages,
    pages,
    run_pages,
    schedule_pages,
    session,
    sign_in_pages,
)
from tidemill.portal.frame import READ_COMPUTES, W, first_page
from tidemill.wire.http import PUBLIC, SIGNED_IN, Context, Handler, Route, json_response

WORKSPACES = "Microsoft.MachineLearningServices/workspaces/read"
JOBS = "Microsoft.MachineLearningServices/workspaces/jobs/read"


def routes() -> list[Route]:
    links = session.LinkBook()
    return [
        Route("GET", "/", PUBLIC, _to_first_page),
        Route("GET", "/ui", WORKSPACES, first_page, partial=True),
        Route("GET", "/ui/login", PUBLIC, _login(links), signs_in=True),
        Route("GET", "/ui/static/{file}", PUBLIC, static_file),
        *sign_in_pages.routes(),
        Route("POST", "/api/v1/portal/link", SIGNED_IN, _link(links)),
        Route("GET", W + "/jobs", JOBS, job_pages.list_page, partial=True),
        Route("GET", W + "/jobs/{name}", JOBS, job_pages.job_page),
        Route("GET", W + "/mlflow", PUBLIC, mlflow_pages.forward_page),
        Route("GET", W + "/runs", JOBS, run_pages.runs_page),
        Route("GET", W + "/runs/{run}", JOBS, run_pages.run_page),
        Route("GET", W + "/experiments/{experiment}", JOBS, mlflow_pages.experiment_page),
        Route("GET", W + "/computes", READ_COMPUTES, compute_pages.list_page, partial=True),
        Route("GET", W + "/computes/{name}", READ_COMPUTES, compute_pages.compute_page),
        *model_pages.routes(),
        *data_pages.routes(),
        *environment_pages.routes(),
        *component_pages.routes(),
        *endpoint_pages.routes(),
        *batch_pages.routes(),
        *container_pages.routes(),
        *schedule_pages.routes(),
        *fairness_pages.routes(),
        *access_pages.routes(),
        *activity_pages.routes(),
        *doctor_pages.routes(),
    ]


async def _to_first_page(ctx: Context) -> Response:
    return pages.redirect("/ui")


def _link(links: session.LinkBook) -> Handler:
    async def link(ctx: Context) -> Response:
        """`{"next": "/ui/…"}` -> `{"url", "expires_at"}`: an address that signs a browser in, once."""
        if ctx.caller.kind == JOB:
            raise Forbidden("A job's token cannot become a session. Use a token of your own.")
        after = session.local_page(str((await ctx.request.json()).get("next") or ""))
        path, expires = links.make(ctx.services, ctx.caller, after)
        return json_response({"url": ctx.services.addresses.http + path, "expires_at": iso(expires)})

    return link


def _login(links: session.LinkBook) -> Handler:
    async def login(ctx: Context) -> Response:
        query = ctx.request.query
        response = pages.redirect(session.local_page(query.get("next", "")))
        try:
            oid, by = links.redeem(ctx.services, query)
        except Unauthenticated:
            if await session.signed_in(ctx.services, ctx.request.header("cookie")):
                return response  # the link was opened again in a browser that has its session
            raise
        await session.open_session(ctx, oid, "link", response, by)
        return response

    return login


async def static_file(ctx: Context) -> Response:
    found = pages.static(ctx.params["file"])
    if found is None:
        raise NotFound(f"There is nothing at {ctx.request.path}.", "NotFound", ctx.request.path)
    return found
