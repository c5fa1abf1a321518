"""What every page of a workspace has around it, and pages for when there is nothing else to show."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from tidemill.app.people import access
from tidemill.app.people.access import AccessDenied
from tidemill.app.services import Services
from tidemill.app.views import access_views, compute_views, overview
from tidemill.domain.errors import TidemillError
from tidemill.domain.model import Scope
from tidemill.portal import pages
from tidemill.wire.http import Context, Request

W = "/ui/{sub}/{rg}/{ws}"  # the address below which a workspace's pages are
READ_COMPUTES = "Microsoft.MachineLearningServices/workspaces/computes/read"
SECTIONS = (
    ("jobs", "Jobs"),
    ("models", "Models"),
    ("endpoints", "Endpoints"),
    ("containers", "Containers"),
    ("data", "Data"),
    ("environments", "Environments"),
    ("components", "Components"),
    ("computes", "Computes"),
    ("schedules", "Schedules"),
    ("queue", "Queue"),
    ("quotas", "Quotas"),
    ("access", "People"),
    ("activity", "Activity"),
    ("doctor", "Doctor"),
)


def base_of(scope: Scope) -> str:
    """`W` of a workspace; of a subscription or a resource group, the address below which theirs are."""
    parts = (scope.subscription, scope.group, scope.workspace)
    return "/ui/" + "/".join(quote(part, safe="") for part in parts if part)


def is_fragment(request: Request) -> bool:
    """Whether htmx asks for a part of a page that it has."""
    return request.header("hx-request") == "true" and request.header("hx-history-restore-request") != "true"


async def around(ctx: Context, section: str) -> dict[str, Any]:
    """The values of base.html. `flags` is what a command needs to reach this workspace."""
    status = await overview.status(ctx.services, ctx.caller)
    scopes = [Scope(w["subscription"], w["resourceGroup"], w["name"]) for w in status["workspaces"]]
    several = len(scopes) > 1
    return {
        "section": section,
        "sections": SECTIONS,
        "base": base_of(ctx.scope),
        "workspace": ctx.scope.workspace,
        "group_name": ctx.scope.group,
        "workspaces": [
            (scope.workspace, scope.group, base_of(scope), scope == ctx.scope) for scope in scopes
        ],
        "user": ctx.caller.name,
        "flags": f" -w {ctx.scope.workspace} -g {ctx.scope.group}" if several else "",
        "server": status,
        "now": ctx.services.clock.now(),
    }


async def computes_seen(ctx: Context) -> list[str]:
    """The names of the workspace's computes, for forms; none where the caller may not read them all."""
    if not (await access.decide(ctx.services, ctx.caller, READ_COMPUTES, ctx.scope)).allowed:
        return []
    return [one["name"] for one in await compute_views.summaries(ctx.services, ctx.scope)]


def live(ctx: Context, here: str, name: str, values: dict[str, Any]) -> Response:
    """The page `name`.html around the part `_name`.html that asks for itself again and again; nothing is sent
    while it is the same as the one before."""
    part = pages.fragment(f"_{name}.html", **values)
    mark = pages.fingerprint(part)
    if is_fragment(ctx.request) and ctx.request.query.get("seen") == mark:
        return pages.unchanged()
    template = "_live.html" if is_fragment(ctx.request) else f"{name}.html"
    return pages.page(template, **values, part=part, poll=f"{here}{'&' if '?' in here else '?'}seen={mark}")


async def first_page(ctx: Context) -> Response:
    """The jobs of the first workspace, or how to make one."""
    workspaces = (await overview.status(ctx.services, ctx.caller))["workspaces"]
    if not workspaces:
        return pages.page(
            "message.html",
            title="No workspace yet",
            message="This server has no workspace. Make one:",
            command="tidemill workspace create --name main",
            hint="",
        )
    first = workspaces[0]
    return pages.redirect(
        base_of(Scope(first["subscription"], first["resourceGroup"], first["name"])) + "/jobs"
    )


def error_page(error: TidemillError) -> Response:
    """What a browser is shown instead of ARM's error body."""
    titles = {403: "Not allowed", 404: "Not found", 507: "The disk is full"}
    title = titles.get(error.status, "This did not work")
    return pages.page("message.html", error.status, title=title, message=error.message, command="", hint="")


async def denied_page(services: Services, error: AccessDenied) -> Response:
    """Which right is missing, the roles that have it, and who can give one."""
    missing = await access_views.missing(services, error)
    return pages.page("denied.html", error.status, missing=missing)
