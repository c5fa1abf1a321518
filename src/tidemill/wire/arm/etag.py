"""ETags of rows and the If-Match / If-None-Match conditions on them."""

from __future__ import annotations

from tidemill.domain.errors import PreconditionFailed
from tidemill.domain.model import Resource
from tidemill.wire.http import Request


def etag(row: Resource) -> str:
    """Changes with every stored change and never repeats for another row of the same name."""
    return f'"{row.uid}-{row.revision}"'


def check_conditions(request: Request, row: Resource | None) -> None:
    """Raises PreconditionFailed when the request's conditions do not hold for `row` (None: absent)."""
    wanted = request.header("if-match")
    if wanted and (row is None or (wanted != "*" and etag(row) not in _tags(wanted))):
        raise PreconditionFailed(
            f"If-Match: {wanted} does not hold: "
            + (f"the ETag is now {etag(row)}. Read it again." if row else "there is no such resource."),
            target=request.path,
        )
    unwanted = request.header("if-none-match")
    if unwanted and row is not None and (unwanted == "*" or etag(row) in _tags(unwanted)):
        raise PreconditionFailed(f"If-None-Match: {unwanted} does not hold: it exists.", target=request.path)


def _tags(header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]
