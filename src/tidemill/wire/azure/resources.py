"""GET, list, PUT, PATCH and DELETE of resources whose changes are long-running operations: endpoints and
their deployments, online and batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response

from tidemill.domain.model import Key, Resource
from tidemill.wire.arm import operations
from tidemill.wire.arm.envelope import render_list
from tidemill.wire.arm.etag import check_conditions, etag
from tidemill.wire.arm.paging import next_link, read_page, split_page
from tidemill.wire.http import Context, Route, bytes_response


class UseCases(Protocol):
    """A module of `app/`: each takes services, then (but for reads) the caller, the scope, the names in the
    path, and what is in the body."""

    @property
    def list_of(self) -> Callable[..., Any]: ...
    @property
    def get(self) -> Callable[..., Any]: ...
    @property
    def put(self) -> Callable[..., Any]: ...
    @property
    def patch(self) -> Callable[..., Any]: ...
    @property
    def delete(self) -> Callable[..., Any]: ...


@dataclass(frozen=True, slots=True)
class Resources:
    """`base`: the path of all of them; `names`: of the path's parameters, the resource's own last. `partial`:
    whoever has roles at single ones sees those in the list."""

    base: str
    action: str
    names: tuple[str, ...]
    uses: UseCases
    key: Callable[..., Key]
    render: Callable[[Context, Resource], bytes]
    partial: bool = False

    @property
    def one(self) -> str:
        return f"{self.base}/{{{self.names[-1]}}}"

    def routes(self) -> list[Route]:
        return [
            Route("GET", self.base, f"{self.action}/read", self._list, partial=self.partial),
            Route("GET", self.one, f"{self.action}/read", self._get),
            Route("PUT", self.one, f"{self.action}/write", self._put),
            Route("PATCH", self.one, f"{self.action}/write", self._patch),
            Route("DELETE", self.one, f"{self.action}/delete", self._delete),
        ]

    def named(self, ctx: Context) -> tuple[str, ...]:
        return tuple(ctx.params[name] for name in self.names)

    async def _list(self, ctx: Context) -> Response:
        page = read_page(ctx.request)
        granted = {"granted": ctx.part.granted if ctx.part is not None else None} if self.partial else {}
        above = tuple(ctx.params[name] for name in self.names[:-1])
        rows = await self.uses.list_of(
            ctx.services, ctx.scope, *above, limit=page.limit + 1, after=page.after, **granted
        )
        return listed(ctx, rows, self.render)

    async def _get(self, ctx: Context) -> Response:
        row = await self.uses.get(ctx.services, ctx.scope, *self.named(ctx))
        return bytes_response(self.render(ctx, row), headers={"ETag": etag(row)})

    async def _put(self, ctx: Context) -> Response:
        names, body = self.named(ctx), await ctx.request.json()
        if ctx.request.header("if-match") or ctx.request.header("if-none-match"):
            key = self.key(ctx.scope, *names)
            check_conditions(ctx.request, await ctx.services.store.read(lambda read: read.get(key)))
        row, created = await self.uses.put(ctx.services, ctx.caller, ctx.scope, *names, body)
        return bytes_response(
            self.render(ctx, row), 201 if created else 200, headers=self._until_ready(ctx, row)
        )

    async def _patch(self, ctx: Context) -> Response:
        body = await ctx.request.json()
        row = await self.uses.patch(ctx.services, ctx.caller, ctx.scope, *self.named(ctx), body)
        return bytes_response(self.render(ctx, row), headers=self._until_ready(ctx, row))

    async def _delete(self, ctx: Context) -> Response:
        row = await self.uses.delete(ctx.services, ctx.caller, ctx.scope, *self.named(ctx))
        return Response(status_code=204) if row is None else operations.accepted(ctx, operations.gone(row))

    def _until_ready(self, ctx: Context, row: Resource) -> dict[str, str]:
        return operations.operation_headers(ctx, operations.ready(row), with_location=False)


def listed(ctx: Context, rows: Sequence[Resource], render: Callable[[Context, Resource], bytes]) -> Response:
    """A page of rows, of which one more than the page has was read."""
    shown, after = split_page(rows, read_page(ctx.request))
    return bytes_response(render_list([render(ctx, row) for row in shown], next_link(ctx, after)))
