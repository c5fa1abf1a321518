"""Which sessions live, in memory, as of the last commit: asked for with every request that has one."""

from __future__ import annotations

from collections.abc import Callable

from tidemill.domain.errors import Unauthenticated
from tidemill.domain.model import Touched
from tidemill.domain.signin import Session
from tidemill.store.api import Store
from tidemill.store.signin import TOUCHED_SESSION

_KEPT = 10_000


class SessionDirectory:
    """A session that was seen alive is not read again until a commit touches it."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._expiry: dict[str, int] = {}  # of those seen alive
        self._commits = 0
        store.on_commit(self._on_commit)

    def _on_commit(self, touched: frozenset[Touched]) -> None:
        for one in touched:
            if one.kind == TOUCHED_SESSION:
                self._commits += 1
                self._expiry.pop(one.uid, None)

    async def check(self, id: str) -> None:
        """Raises Unauthenticated for a session that has ended, expired, or is gone."""
        expires = self._expiry.get(id)
        if expires is None:
            before = self._commits
            expires = expiry_of(await self._store.read(lambda r: r.session(id)))
            if before == self._commits:  # else the row that was read may be older than what was said of it
                if len(self._expiry) >= _KEPT:
                    self._expiry.clear()
                self._expiry[id] = expires
        check_expiry(expires, self._now())


def expiry_of(session: Session | None) -> int:
    """Raises Unauthenticated for one that has ended or is gone."""
    if session is None or session.ended_at is not None:
        reason = "" if session is None or not session.end_reason else f" ({session.end_reason})"
        raise Unauthenticated(f"This sign-in has ended{reason}. Sign in again.", "ExpiredAuthenticationToken")
    return session.expires_at


def check_expiry(expires: int, now: int) -> None:
    """Raises Unauthenticated from then on."""
    if now >= expires:
        raise Unauthenticated("This sign-in has expired. Sign in again.", "ExpiredAuthenticationToken")
