"""ARM's activity log (`Microsoft.Insights/eventtypes/management/values`) over Tidemill's own.

https://learn.microsoft.com/rest/api/monitor/activity-logs/list: `$filter` joins `eventTimestamp ge|le` and
one of resourceGroupName, resourceUri, resourceProvider and correlationId with `and`; `$select` names
properties.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.app.views import activity_views
from tidemill.app.views.activity_views import READ_ACTION, moment, place, token
from tidemill.domain.activity import Outcome, Record, plain
from tidemill.domain.errors import InvalidRequest
from tidemill.store.api import ActivityQuery
from tidemill.wire.arm.paging import next_link, read_page
from tidemill.wire.http import Context, Route, json_response

_CLAUSE = re.compile(r"\s*(\w+)\s+(eq|ge|gt|le|lt)\s+'((?:[^']|'')*)'\s*", re.IGNORECASE)
MAX_FILTER = 4000
_FIELDS = "eventTimestamp, resourceGroupName, resourceUri, resourceProvider, correlationId and caller"
_LEVELS = {Outcome.SUCCEEDED: "Informational", Outcome.FAILED: "Error", Outcome.REFUSED: "Warning"}


def routes() -> list[Route]:
    path = "/subscriptions/{sub}/providers/Microsoft.Insights/eventtypes/management/values"
    return [Route("GET", path, READ_ACTION, list_values)]


async def list_values(ctx: Context) -> Response:
    page, query = read_page(ctx.request), ctx.request.query
    asked = filter_of(plain(query.get("$filter", ""), MAX_FILTER), ctx.scope.subscription)
    found = await activity_views.find(
        ctx.services,
        ActivityQuery(**asked, limit=page.limit, after=place(page.after or "", "$skipToken")),
    )
    wanted = [name.strip() for name in query.get("$select", "").split(",") if name.strip()]
    value = [event(ctx.services, ctx.scope.subscription, record) for record in found.records]
    if wanted:
        value = [{name: item[name] for name in wanted if name in item} for item in value]
    body: dict[str, Any] = {"value": value}
    if found.after is not None and page.top is None:
        body["nextLink"] = next_link(ctx, token(found.after))
    return json_response(body)


def filter_of(text: str, subscription: str) -> dict[str, Any]:
    """`$filter` -> arguments of ActivityQuery. Raises InvalidRequest naming the clause."""
    found: dict[str, Any] = {}
    for part in re.split(r"\s+and\s+(?=\w+\s+(?:eq|ge|gt|le|lt)\b)", text.strip(), flags=re.IGNORECASE):
        if not part:
            continue
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise InvalidRequest(
                f"$filter: {part!r} is not understood. Write FIELD eq|ge|le 'VALUE', joined by and; "
                f"the fields are {_FIELDS}.",
                target="$filter",
            )
        name, operator, value = match[1].lower(), match[2].lower(), match[3].replace("''", "'")
        found |= _clause(name, operator, value, subscription, part)
    return found


def _clause(name: str, operator: str, value: str, subscription: str, part: str) -> dict[str, Any]:
    if name == "eventtimestamp" and operator != "eq":
        at = moment(value, "$filter")
        assert at is not None or not value
        if operator in ("ge", "gt"):
            return {"since": at if operator == "ge" or at is None else at + 1}
        return {"until": at if operator == "lt" or at is None else at + 1}
    if operator == "eq":
        match name:
            case "resourcegroupname":
                return {"scope": f"/subscriptions/{subscription}/resourceGroups/{value}"}
            case "resourceuri" | "resourceid":
                return {"resource": value.rstrip("/")}
            case "resourceprovider":
                return {"what": f"{value}/*"}
            case "correlationid":
                return {"correlation": value}
            case "caller":
                return {"who": value}
            case _:
                pass
    raise InvalidRequest(f"$filter: {part!r} is not offered. The fields are {_FIELDS}.", target="$filter")


def event(services: Services, subscription: str, record: Record) -> dict[str, Any]:
    """A record as Azure's EventData."""
    group = re.match(r"/subscriptions/[^/]+/resourceGroups/([^/]+)", record.resource, re.IGNORECASE)
    provider = record.action.split("/", 1)[0]
    when = iso(record.at)
    status = {Outcome.SUCCEEDED: "Succeeded", Outcome.FAILED: "Failed", Outcome.REFUSED: "Failed"}
    return {
        "id": f"{record.resource}/events/{record.seq}",
        "eventDataId": str(record.seq),
        "correlationId": record.correlation,
        "operationId": record.correlation,
        "eventName": _both("EndRequest"),
        "category": _both("Security" if record.outcome is Outcome.REFUSED else "Administrative"),
        "operationName": _both(record.action),
        "status": _both(status[record.outcome]),
        "subStatus": _both(record.code or str(record.status)),
        "level": _LEVELS[record.outcome],
        "eventTimestamp": when,
        "submissionTimestamp": when,
        "subscriptionId": subscription,
        "tenantId": services.settings.tenant,
        "resourceGroupName": group[1] if group else "",
        "resourceProviderName": _both(provider),
        "resourceId": record.resource,
        "resourceType": _both(record.action.rsplit("/", 1)[0]),
        "caller": record.actor_name or record.actor_kind,
        "authorization": {"action": record.action, "role": record.assignment, "scope": record.scope},
        "claims": {"oid": record.actor, "name": record.actor_name, "idtyp": record.actor_kind},
        "httpRequest": {
            "clientRequestId": record.correlation,
            "clientIpAddress": record.address,
            "method": record.method,
            "uri": record.resource,
        },
        "description": record.reason,
        "properties": {
            "statusCode": str(record.status),
            "userAgent": record.agent,
            "count": str(record.count),
            "hash": record.hash.hex(),
        },
    }


def _both(value: str) -> dict[str, str]:
    return {"value": value, "localizedValue": value}
