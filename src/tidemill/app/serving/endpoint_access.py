"""Whether a token opens an online endpoint, asked by the gateway: over a store that another process writes.

It hears of no commits, so at each request it reads the generation that every change of access moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from tidemill.app.access_directory import load_index
from tidemill.app.people.access import JOB
from tidemill.app.session_directory import check_expiry, expiry_of
from tidemill.domain.errors import Forbidden, Unauthenticated
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, JobState
from tidemill.domain.roles import AccessIndex
from tidemill.store.api import Read

T = TypeVar("T")
SCORE = f"{PROVIDER}/workspaces/onlineEndpoints/score/action"


class Reader(Protocol):
    """A store that is read."""

    async def read(self, fn: Callable[[Read], T]) -> T: ...


class EndpointAccess:
    """`now`: microseconds."""

    def __init__(self, store: Reader, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._index: AccessIndex | None = None
        self._generation = -1

    async def check_holder(self, oid: str) -> None:
        """Of an endpoint's own token: whoever it was given to is still there and enabled. Raises
        Unauthenticated."""
        who = (await self._current()).principal(oid)
        if who is None or who.disabled:
            raise Unauthenticated("Whoever this token was given to is disabled, or does not exist any more.")

    async def check_caller(self, caller: Caller, endpoint: str) -> None:
        """Whether a caller that signed in here may call the endpoint (its ARM id). A job may where the
        identity that it acts for may. Raises Unauthenticated, Forbidden with the reason."""
        if caller.session:
            session = await self._store.read(lambda read: read.session(caller.session))
            check_expiry(expiry_of(session), self._now())
        oid = caller.oid
        if caller.kind == JOB:
            await self._check_job(caller)
            oid = caller.acts_as
            if not oid:
                raise Forbidden(
                    f"Job {caller.job!r} acts for no identity, so it has no role on this endpoint. Give it "
                    "one (identity: managed or user_identity), and that one a role that allows it."
                )
        index = await self._current()
        who = index.principal(oid)
        if who is None or who.disabled:
            raise Unauthenticated(f"The principal {caller.name!r} is disabled, or does not exist any more.")
        decision = index.decide(oid, SCORE, endpoint)
        if not decision.allowed:
            raise Forbidden(
                f"The client {who.name!r} with object id '{oid}' does not have authorization to perform "
                f"action '{SCORE}' over scope '{endpoint}'. {decision.reason} An owner can grant a role that "
                "allows it: tidemill access grant."
            )

    async def _check_job(self, caller: Caller) -> None:
        row = await self._store.read(lambda read: read.by_uid(caller.oid))
        if row is None or row.key.type != "jobs" or JobState(row.state).final:
            raise Unauthenticated(f"Job {caller.job!r} has ended, and its token with it.")

    async def _current(self) -> AccessIndex:
        now = await self._store.read(lambda read: read.access_generation())
        if self._index is None or self._generation != now:
            self._generation, self._index = await self._store.read(
                lambda read: (read.access_generation(), load_index(read))
            )
        return self._index
