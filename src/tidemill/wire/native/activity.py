"""`/api/v1/activity`: the activity log of the server or of one workspace, and the check of its chain."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.views import activity_views
from tidemill.app.views.activity_views import READ_ACTION
from tidemill.domain.activity import MAX_RESOURCE, plain
from tidemill.domain.errors import InvalidRequest
from tidemill.store.api import ActivityQuery
from tidemill.wire.http import Context, Route, json_response
from tidemill.wire.native.routes import W, whole


def routes() -> list[Route]:
    return [
        Route("GET", "/api/v1/activity", READ_ACTION, list_records),
        Route("GET", W + "/activity", READ_ACTION, list_records),
        Route("GET", "/api/v1/activity/verify", READ_ACTION, verify),
    ]


async def list_records(ctx: Context) -> Response:
    query = {name: plain(text, MAX_RESOURCE) for name, text in ctx.request.query.items()}
    scope = query.get("scope", "")
    if ctx.scope.workspace:
        scope = ctx.scope.arm_id
    page = await activity_views.find(
        ctx.services,
        ActivityQuery(
            who=query.get("who", ""),
            what=query.get("what", ""),
            scope=scope.rstrip("/"),
            resource=query.get("resource", "").rstrip("/"),
            correlation=query.get("correlation", ""),
            since=activity_views.moment(query.get("since", ""), "since"),
            until=activity_views.moment(query.get("until", ""), "until"),
            refused=query.get("refused", "").lower() == "true",
            limit=whole(query.get("limit", "50"), "limit", 1, 1000),
            after=activity_views.place(query.get("after", ""), "after"),
        ),
    )
    value = [activity_views.view(record) for record in page.records]
    return json_response(
        {"value": value, "next": None if page.after is None else activity_views.token(page.after)}
    )


async def verify(ctx: Context) -> Response:
    """`against=SEQ:HASH`: a record as somebody noted it elsewhere."""
    text = ctx.request.query.get("against", "")
    against = None
    if text:
        seq, _, digest = text.partition(":")
        try:
            against = int(seq), bytes.fromhex(digest)
        except ValueError:
            raise InvalidRequest(
                f"against is {text!r}: it must be NUMBER:HASH, as `tidemill activity verify` prints it.",
                target="against",
            ) from None
    return json_response(await activity_views.verify(ctx.services, against))
