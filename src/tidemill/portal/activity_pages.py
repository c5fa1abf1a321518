"""The activity log of a workspace or of the whole server: who did what, allowed or refused, by which role."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from tidemill.app.people import access
from tidemill.app.people.access import AccessDenied
from tidemill.app.views import access_views, activity_views
from tidemill.app.views.activity_views import READ_ACTION, ActivityQuery
from tidemill.domain.activity import MAX_RESOURCE, plain
from tidemill.domain.model import Scope
from tidemill.portal import pages
from tidemill.portal.frame import W, around
from tidemill.wire.http import Context, Route

PAGE = 50  # records
HOUR = 3_600_000_000  # microseconds
SINCE = {
    "": ("any time", 0),
    "1h": ("the last hour", 1),
    "1d": ("the last day", 24),
    "7d": ("the last week", 168),
}


def routes() -> list[Route]:
    return [Route("GET", f"{W}/activity", READ_ACTION, show)]


async def show(ctx: Context) -> Response:
    """`?who=&what=&since=1h&refused=1&all=1&after=&verify=1`"""
    query = {name: plain(text.strip(), MAX_RESOURCE) for name, text in ctx.request.query.items()}
    whole = Scope(ctx.scope.subscription)
    decision = await access.decide(ctx.services, ctx.caller, READ_ACTION, whole)
    everywhere, verifies = bool(query.get("all")), bool(query.get("verify"))
    if (everywhere or verifies) and not decision.allowed:
        raise AccessDenied(ctx.caller, decision)
    since = query.get("since", "") if query.get("since", "") in SINCE else ""
    chosen = {
        "who": query.get("who", ""),
        "what": query.get("what", ""),
        "since": since,
        "refused": "1" if query.get("refused") else "",
        "all": "1" if everywhere else "",
    }
    hours = SINCE[since][1]
    found = await activity_views.find(
        ctx.services,
        ActivityQuery(
            who=chosen["who"],
            what=chosen["what"],
            scope="" if everywhere else ctx.scope.arm_id,  # of the whole, what has no scope as well
            since=ctx.services.clock.now() - hours * HOUR if hours else None,
            refused=bool(chosen["refused"]),
            limit=PAGE,
            after=activity_views.place(query.get("after", ""), "after"),
        ),
    )
    frame = await around(ctx, "activity")
    older = {**chosen, "after": activity_views.token(found.after)} if found.after else None
    return pages.page(
        "activity.html",
        **frame,
        records=[activity_views.view(record) for record in found.records],
        chosen=chosen,
        filtered=any(chosen[name] for name in ("who", "what", "since", "refused")),
        periods=[(value, label) for value, (label, _) in SINCE.items()],
        newest=_address(frame["base"], chosen) if query.get("after") else "",
        older=_address(frame["base"], older) if older else "",
        missing=None
        if decision.allowed
        else await access_views.missing(ctx.services, AccessDenied(ctx.caller, decision)),
        checked=await activity_views.verify(ctx.services) if verifies else None,
    )


def _address(base: str, chosen: dict[str, Any]) -> str:
    given = urlencode({name: value for name, value in chosen.items() if value})
    return f"{base}/activity?{given}" if given else f"{base}/activity"
