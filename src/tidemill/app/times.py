"""Times as clients read them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import overload


@overload
def iso(at: int) -> str: ...
@overload
def iso(at: None) -> None: ...
@overload
def iso(at: int | None) -> str | None: ...
def iso(at: int | None) -> str | None:
    """Microseconds since the epoch -> `2026-11-23T06:12:00.123456Z`."""
    return None if at is None else f"{_iso_seconds(at // 1_000_000)}.{at % 1_000_000:06d}Z"


@lru_cache(maxsize=4096)
def _iso_seconds(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
