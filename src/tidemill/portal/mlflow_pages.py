"""Where addresses of MLflow's own pages lead: "View run … at ADDRESS/#/experiments/E/runs/R".

The part behind the '#' stays with the browser, which keeps it through redirects. A page of ours reads it
there and goes on to `runs/{run}` or `experiments/{experiment}`, which find what is meant.
"""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response

from tidemill.app.tracking import tracking_experiments
from tidemill.portal import pages
from tidemill.portal.frame import base_of
from tidemill.wire.http import Context


async def forward_page(ctx: Context) -> Response:
    return pages.page("forward.html", jobs=f"{base_of(ctx.scope)}/jobs")


async def experiment_page(ctx: Context) -> Response:
    """The jobs of an experiment."""
    found = await tracking_experiments.get(ctx.services, ctx.scope, ctx.params["experiment"])
    return pages.redirect(f"{base_of(ctx.scope)}/jobs?{urlencode({'q': found.name})}")
