"""Times as clients read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload


@overload
def iso(at: int) -> str: ...
@overload
def iso(at: None) -> None: ...
@overload
def iso(at: int | None) -> str | None: ...
def iso(at: int | None) -> str | None:
    """Microseconds since the epoch -> `2026-11-23T06:12:00.123456Z`."""
    if at is None:
        return None
    return datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
