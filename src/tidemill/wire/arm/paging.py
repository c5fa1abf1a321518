"""Pages of lists: `$top` (or `count`, `maxItems`) and a `$skipToken` that is the last row's uid, so that a
page stays right while rows are added in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Resource
from tidemill.domain.units import parse_whole
from tidemill.wire.http import Context, Request

DEFAULT_PAGE = 100
MAX_PAGE = 1000
_SIZE_NAMES = ("$top", "top", "count", "maxItems", "maxpagesize")


@dataclass(frozen=True, slots=True)
class Page:
    """`limit`: rows in this page; `after`: uid of the row before it; `top`: the caller wants no more
    than this in all, so there is no next page when it is reached."""

    limit: int
    after: str | None
    top: int | None


def read_page(request: Request) -> Page:
    """Raises InvalidRequest for a size that is no positive number. Ask the store for `limit + 1` rows to
    know whether there is another page."""
    top = None
    for name in _SIZE_NAMES:
        text = request.query.get(name)
        if text:
            top = parse_whole(text)
            if not top:
                raise InvalidRequest(f"{name}={text!r} is not a positive number.", "InvalidParameter", name)
            break
    return Page(min(top or DEFAULT_PAGE, MAX_PAGE), request.query.get("$skipToken") or None, top)


def split_page(rows: Sequence[Resource], page: Page) -> tuple[Sequence[Resource], str | None]:
    """`limit + 1` rows as read -> (this page's rows, uid to go on after, or None at the end)."""
    if len(rows) <= page.limit:
        return rows, None
    shown = rows[: page.limit]
    return shown, None if page.top is not None and page.top <= page.limit else shown[-1].uid


def next_link(ctx: Context, after: str | None) -> str | None:
    """The address of the page after the row `after`, on the listener's own base."""
    if after is None:
        return None
    query = {**ctx.request.query, "$skipToken": after}
    return f"{base_url(ctx)}{ctx.request.path}?{urlencode(query)}"


def base_url(ctx: Context) -> str:
    """The listener the request came through: https and http clients each stay on theirs."""
    addresses = ctx.services.addresses
    return addresses.https if ctx.request.scope.get("scheme") == "https" else addresses.http
