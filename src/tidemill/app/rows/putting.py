"""Creating or replacing a row, whoever else does so at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tidemill.app.services import Services
from tidemill.store.api import AlreadyExists, Tx

T = TypeVar("T")


async def put_row(s: Services, change: Callable[[Tx], T]) -> T:
    """`change` inserts the row, or replaces the one it finds. Of two writers of a new one the second finds
    the first's, and replaces it."""
    try:
        return await s.store.write(change)
    except AlreadyExists:
        return await s.store.write(change)
