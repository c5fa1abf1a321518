"""Rows as a dialect shows them, remembered by what they are: a uid and a revision.

A row of one revision never looks different, so a list is read as (uid, revision) pairs and only rows that
changed since the last time are read and rendered. Nothing has to be told of changes; nothing can be stale.
"""

from __future__ import annotations

from collections.abc import Callable

from tidemill.domain.model import Key, Resource
from tidemill.store.api import Read, ResourceQuery, Store

Show = Callable[[Resource], bytes]

LIMIT_BYTES = 8 << 20


class Shown:
    """One per server and kind of row. `show` must look at nothing but the row."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._known: dict[tuple[str, int], bytes] = {}

    async def one(self, store: Store, key: Key, show: Show) -> bytes | None:
        """The row of `key` as shown; None where there is none."""

        def look(read: Read) -> bytes | None:
            which = read.revision(key)
            return None if which is None else self._known.get(which) or self._show(read, which, show)

        return await store.read(look)

    async def page(self, store: Store, query: ResourceQuery, show: Show) -> list[tuple[str, bytes]]:
        """(uid, row as shown) of what `find` would return, in its order."""

        def look(read: Read) -> list[tuple[str, bytes]]:
            known = self._known
            return [
                (which[0], known.get(which) or self._show(read, which, show))
                for which in read.revisions(query)
            ]

        return await store.read(look)

    def _show(self, read: Read, which: tuple[str, int], show: Show) -> bytes:
        row = read.by_uid(which[0])
        assert row is not None  # the same snapshot named it
        shown = show(row)
        self._size += len(shown)
        if self._size > self._limit:
            self._known.clear()
            self._size = len(shown)
        self._known[which] = shown
        return shown
