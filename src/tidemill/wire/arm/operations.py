"""Long-running operations without state of their own: an operation's id says what to look at.

`gone:<uid>`: Succeeded when the row is gone.  `ready:<uid>`: Succeeded when its state is Succeeded, Failed
when that is Failed or Canceled.  `done:<uid>`: it was finished when it was answered.
`turn:<uid>:<generation>`: as `ready`, of what counts its generations; Canceled when another took its place.
A restart of the server loses nothing, because there is nothing to lose.
"""

from __future__ import annotations

from typing import Any

from msgspec import json
from starlette.responses import Response

from tidemill.app.people.access import authorise
from tidemill.app.times import iso
from tidemill.app.workspaces.workspaces import scope_of
from tidemill.domain.errors import NotFound
from tidemill.domain.ids import PROVIDER, resource_id
from tidemill.domain.model import Resource
from tidemill.wire.arm.envelope import arm_type, render
from tidemill.wire.arm.paging import base_url
from tidemill.wire.http import SIGNED_IN, Context, Route, bytes_response, json_response

RETRY_MS = "200"  # no `Retry-After: 0`: the client reads 0 as absent and waits 30 s
KINDS = ("gone", "ready", "done", "turn")
_READY = ("Succeeded", "")
_FAILED = ("Failed", "Canceled")
_LOCATION = f"/subscriptions/{{sub}}/providers/{PROVIDER}/locations/{{loc}}"
_WORKSPACE_LOCATION = (
    f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/locations/{{loc}}"
)


def gone(row: Resource) -> str:
    return f"gone:{row.uid}"


def ready(row: Resource) -> str:
    return f"ready:{row.uid}"


def turn(row: Resource) -> str:
    """`row`: as it was written, its status with the `generation` that was asked for."""
    return f"turn:{row.uid}:{_generation(row)}"


def done(row: Resource) -> str:
    return f"done:{row.uid}"


def operation_headers(ctx: Context, operation: str, *, with_location: bool = True) -> dict[str, str]:
    """Headers of a 201 or 202 whose work goes on: Azure-AsyncOperation, Location, x-ms-retry-after-ms.
    A PUT leaves `Location` out: the client then reads the resource itself."""
    base = f"{base_url(ctx)}/subscriptions/{ctx.scope.subscription}/providers/{PROVIDER}/locations/"
    base += f"{ctx.services.settings.region}/computeOperation"
    version = f"?api-version={ctx.request.api_version or '2024-10-01'}"
    headers = {
        "Azure-AsyncOperation": f"{base}sStatus/{operation}{version}",
        "x-ms-retry-after-ms": RETRY_MS,
    }
    if with_location:
        headers["Location"] = f"{base}Results/{operation}{version}"
    return headers


def accepted(ctx: Context, operation: str) -> Response:
    """202 with no body."""
    return Response(None, 202, operation_headers(ctx, operation))


async def _status(ctx: Context) -> Response:
    operation = ctx.params["id"]
    status, row = await _look(ctx, operation)
    body: dict[str, Any] = {"id": ctx.request.path, "name": operation, "status": status}
    if row is not None:
        body["startTime"] = iso(row.modified_at or row.created_at)
    if status == "Failed":
        body["error"] = _failure(row)
    if status == "Canceled":
        body["error"] = {
            "code": "Superseded",
            "message": f"Somebody changed {row.key.name if row else 'it'} meanwhile, and that took the place "
            "of this change: look at what it is now.",
        }
    if status == "InProgress":
        return json_response(body, headers={"x-ms-retry-after-ms": RETRY_MS})
    body["percentComplete"] = 100
    return json_response(body)


async def _result(ctx: Context) -> Response:
    operation = ctx.params["id"]
    status, row = await _look(ctx, operation)
    if status == "InProgress":
        return accepted(ctx, operation)
    if operation.startswith(("ready:", "turn:")) and row is not None and status == "Succeeded":
        return bytes_response(render(row))
    return Response(None, 204)


async def _look(ctx: Context, operation: str) -> tuple[str, Resource | None]:
    kind, _, rest = operation.partition(":")
    uid, _, generation = rest.partition(":")
    if kind not in KINDS or not uid:
        raise NotFound(f"There is no operation {operation!r}.", "OperationNotFound")
    row = await ctx.services.store.read(lambda read: read.by_uid(uid))
    if row is not None:
        await _check_readable(ctx, row)
    if kind == "done":
        return "Succeeded", row
    if kind == "gone":
        return ("Succeeded" if row is None else "InProgress"), row
    if row is None:
        raise NotFound(f"What operation {operation!r} was about is gone.", "OperationNotFound")
    if kind == "turn" and generation != str(_generation(row)):
        return ("Succeeded" if generation in _fulfilled(row) else "Canceled"), row
    if row.state in _READY:
        return "Succeeded", row
    return ("Failed" if row.state in _FAILED else "InProgress"), row


async def _check_readable(ctx: Context, row: Resource) -> None:
    """Who started an operation has a role on what it is about, and often none on the subscription, where
    its address lies. Raises AccessDenied."""
    if row.key.type == "workspaces":
        scope, below = scope_of(row), ""
    else:
        scope = row.key.scope
        below = resource_id(row.key).removeprefix(f"{scope.arm_id}/")
    await authorise(ctx.services, ctx.caller, f"{arm_type(row)}/read", scope, below)


def _generation(row: Resource) -> int:
    return json.decode(row.status).get("generation", 0)


def _fulfilled(row: Resource) -> list[str]:
    return [str(one) for one in json.decode(row.status).get("fulfilled", ())]


def _failure(row: Resource | None) -> dict[str, Any]:
    recorded = json.decode(row.status).get("error") if row is not None else None
    if isinstance(recorded, dict):
        return recorded
    return {"code": "OperationFailed", "message": f"It ended as {row.state if row else 'gone'}."}


def routes() -> list[Route]:
    """The status and result addresses of every operation, for each of the names that clients know."""
    found: list[Route] = []
    for prefix in (_LOCATION, _WORKSPACE_LOCATION):
        for kind in ("compute", "mfe", "workspace"):
            for name, handler in ((f"{kind}OperationsStatus", _status), (f"{kind}OperationResults", _result)):
                found.append(Route("GET", f"{prefix}/{name}/{{id}}", SIGNED_IN, handler, name))
    return found
