"""The components of a workspace; one version with what it takes and gives, and its YAML."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.rows.asset_rows import COMPONENTS
from tidemill.app.views import asset_uses
from tidemill.domain.components import read_component
from tidemill.portal import asset_pages, pages
from tidemill.wire.http import Context, Route

_LEFT_OUT = ("_source", "$schema")


def routes() -> list[Route]:
    return asset_pages.routes(COMPONENTS, list_page, component_page)


async def list_page(ctx: Context) -> Response:
    return await asset_pages.list_page(ctx, COMPONENTS, "components")


async def component_page(ctx: Context) -> Response:
    _, values = await asset_pages.one(ctx, COMPONENTS)
    asset = values["item"]
    name, version = asset["name"], asset["version"]
    spec = asset["spec"].get("componentSpec") or {}
    component = read_component(spec, name, version)
    uses = await asset_pages.used(ctx, lambda read: asset_uses.of_component(read, ctx.scope, name, version))
    return pages.page(
        "component.html",
        **values,
        **uses,
        component=component,
        yaml=_yaml({"name": name, "version": version, **spec}),
    )


def _yaml(spec: dict[str, Any]) -> str:
    """As `tidemill component create --file` takes it."""
    import yaml

    kept = {key: value for key, value in spec.items() if key not in _LEFT_OUT}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
