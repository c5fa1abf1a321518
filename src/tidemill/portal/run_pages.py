"""The metrics of one run, live, or of several beside each other."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.responses import Response

from tidemill.app.tracking import tracking
from tidemill.app.tracking.tracking_jobs import JOB_TAG
from tidemill.domain.errors import InvalidRequest
from tidemill.portal import curve_picture, pages
from tidemill.portal.frame import around, base_of, live
from tidemill.store.tracking import RunRecord
from tidemill.wire.http import Context

MOST_RUNS, MOST_METRICS = 8, 24
POINTS = 300  # of a curve


async def runs_page(ctx: Context) -> Response:
    """`?run=A&run=B`. A form adds one more by its id."""
    raw = ctx.request.scope["query_string"].decode("latin-1")
    given = [value.strip() for key, value in parse_qsl(raw) if key == "run"]
    names = list(dict.fromkeys(filter(None, given)))
    if not 0 < len(names) <= MOST_RUNS:
        raise InvalidRequest(f"{len(names)} runs are named: 1 to {MOST_RUNS} are compared.", target="run")
    frame = await around(ctx, "jobs")
    records = [await tracking.get_run(ctx.services, ctx.scope, name) for name in names]
    here = f"{frame['base']}/runs?{urlencode([('run', record.run.id) for record in records])}"
    return live(ctx, here, "runs", {**frame, **await _values(ctx, records)})


async def run_page(ctx: Context) -> Response:
    """A run that a job started is on its job's page; another has its metrics only."""
    name = ctx.params["run"]
    record = await tracking.get_run(ctx.services, ctx.scope, name)
    job, base = record.tags.get(JOB_TAG), base_of(ctx.scope)
    where = f"jobs/{quote(job, safe='')}" if job else f"runs?{urlencode({'run': record.run.id})}"
    return pages.redirect(f"{base}/{where}")


async def _values(ctx: Context, records: list[RunRecord]) -> dict[str, Any]:
    keys = sorted({metric.key for record in records for metric in record.metrics})
    return {
        "runs": [_shown(record) for record in records],
        "pictures": [(key, await _picture(ctx, records, key)) for key in keys[:MOST_METRICS]],
        "left_out": len(keys[MOST_METRICS:]),
        "params": _table([record.params for record in records]),
        "last": _table([{m.key: m.value for m in record.metrics} for record in records]),
        "most": MOST_RUNS,
    }


async def _picture(ctx: Context, records: list[RunRecord], key: str) -> curve_picture.Picture | None:
    curves: list[tuple[str, list[curve_picture.Point]]] = []
    for record in records:
        points = await tracking.curve(ctx.services, ctx.scope, record.run.id, key, POINTS)
        curves.append((record.run.id, [(point.step, point.value) for point in points]))
    return curve_picture.draw(curves)


def _shown(record: RunRecord) -> dict[str, Any]:
    run, job = record.run, record.tags.get(JOB_TAG, "")
    return {"id": run.id, "name": run.name, "status": run.status, "job": job}


def _table(columns: list[dict[str, Any]]) -> list[tuple[str, list[Any], bool]]:
    """A row for each name: its value in each run (None where it has none), and whether they differ."""
    names = sorted({name for column in columns for name in column})
    rows = [(name, [column.get(name) for column in columns]) for name in names]
    return [(name, values, any(value != values[0] for value in values)) for name, values in rows]
