"""Where addresses of MLflow's own pages lead: "View run … at ADDRESS/#/experiments/E/runs/R".

The part behind the '#' stays with the browser, which keeps it through redirects. A page of ours reads it
there and goes on to `runs/{run}` or `experiments/{experiment}`, which find what is meant.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode

from starlette.responses import Response

from tidemill.app import tracking, tracking_experiments
from tidemill.app.tracking_jobs import JOB_TAG
from tidemill.domain.errors import NotFound
from tidemill.portal import pages
from tidemill.portal.frame import base_of
from tidemill.wire.http import Context


async def forward_page(ctx: Context) -> Response:
    return pages.page("forward.html", jobs=f"{base_of(ctx.scope)}/jobs")


async def run_page(ctx: Context) -> Response:
    """A run that a job started is on its job's page."""
    name = ctx.params["run"]
    record = await tracking.get_run(ctx.services, ctx.scope, name)
    job = record.tags.get(JOB_TAG)
    if job is None:
        raise NotFound(
            f"Run {name!r} was started by no job of this server: there is no page of it here. Its parameters "
            "and metrics are read with MLflow's client.",
            target=name,
        )
    return pages.redirect(f"{base_of(ctx.scope)}/jobs/{quote(job, safe='')}")


async def experiment_page(ctx: Context) -> Response:
    """The jobs of an experiment."""
    found = await tracking_experiments.get(ctx.services, ctx.scope, ctx.params["experiment"])
    return pages.redirect(f"{base_of(ctx.scope)}/jobs?{urlencode({'q': found.name})}")
