"""Keys of storage accounts: whom they are derived for, and whether that still holds.

Whoever may ask for an account's key gets one of their own, derived for the assignment that let them. What
the server signs itself (a SAS for an upload, for an artifact) names its holder in the clear, and is signed
with a key that is never handed out. The data process asks here at each request; it hears of no commits, so it
reads the generation that every change of access moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tidemill.app.access_directory import load_index
from tidemill.app.people.access import JOB
from tidemill.app.session_directory import check_expiry, expiry_of
from tidemill.domain.errors import Forbidden, Unauthenticated
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, JobState
from tidemill.domain.roles import AccessIndex, Decision, fold_scope
from tidemill.identity.storage_keys import StorageKeys
from tidemill.store.api import Read

T = TypeVar("T")

# With one of these a principal gets the account's key, which opens all of the account.
KEY_ACTIONS = (
    f"{PROVIDER}/workspaces/datastores/listSecrets/action",
    f"{PROVIDER}/workspaces/listKeys/action",
)
_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
READ_BLOBS = f"{_BLOBS}/read"
# A data action -> the letters of a SAS that it is worth.
_LETTERS = {
    READ_BLOBS: "rl",
    f"{_BLOBS}/write": "cwa",
    f"{_BLOBS}/add/action": "a",
    f"{_BLOBS}/delete": "d",
}


class Reader(Protocol):
    """A store that is read."""

    async def read(self, fn: Callable[[Read], T]) -> T: ...


def signer_of(caller: Caller, decision: Decision) -> str:
    """The holder of what the server signs for a caller: a job, or a principal by its assignment."""
    if caller.kind == JOB:
        return f"job:{caller.oid}"
    return f"sas:{_holder(caller, decision)}"


def account_holder(caller: Caller, decision: Decision, workspace: str) -> str:
    """The holder of a key that opens the whole account. Raises Forbidden for jobs, and where the role is on a
    part of the workspace only."""
    if caller.kind == JOB:
        raise Forbidden(
            "A job gets no key of the storage account: its inputs and outputs are mounted, and its token "
            "opens blobs."
        )
    holder = _holder(caller, decision)
    assert decision.assignment is not None
    if len(fold_scope(decision.assignment.scope)) > len(fold_scope(workspace)):
        raise Forbidden(
            f"The key opens the workspace's whole storage account, and {caller.name!r} has a role only at "
            f"{decision.assignment.scope}. It is given for a role on the workspace."
        )
    return holder


def _holder(caller: Caller, decision: Decision) -> str:
    if decision.assignment is None:
        raise Forbidden(f"{caller.name!r} has no role that a key of the storage could be given for.")
    return f"{caller.oid}.{decision.assignment.id}"


@dataclass(slots=True)
class _View:
    generation: int
    index: AccessIndex
    keys: dict[str, dict[bytes, None]]  # account -> keys of those who may have one


class StorageAccess:
    """wire.blob.auth.BlobAccess over a store that another process writes. `verify`: token -> caller; `now`:
    microseconds."""

    def __init__(
        self, store: Reader, keys: StorageKeys, verify: Callable[[str], Caller], now: Callable[[], int]
    ) -> None:
        self._store = store
        self._keys = keys
        self._verify = verify
        self._now = now
        self._view: _View | None = None
        self._generation = keys.generation
        self._recent: dict[str, bytes] = {}
        self._loading = asyncio.Lock()

    async def account_keys(self, account: str, workspace: str) -> Sequence[bytes]:
        view = await self._current()
        if self._keys.generation is not self._generation:  # the home's keys were rotated
            self._generation = self._keys.generation
            view.keys.clear()
        known = view.keys.get(account)
        if known is None:
            holders = view.index.holders_of(KEY_ACTIONS, workspace) if workspace else ()
            raw = (key for oid, given in holders for key in self._keys.raw(account, f"{oid}.{given.id}"))
            known = view.keys[account] = dict.fromkeys(raw)
        last = self._recent.get(account)
        return [last, *known] if last is not None and last in known else list(known)

    async def holder_keys(self, account: str, workspace: str, holder: str) -> Sequence[bytes]:
        kind, _, whose = holder.partition(":")
        if kind == "job":
            good = await self._job_lives(whose, workspace)
        else:
            oid, _, assignment = whose.partition(".")
            index = (await self._current()).index
            good = kind == "sas" and bool(workspace) and index.has(oid, assignment, workspace)
        return self._keys.raw(account, holder) if good and self._keys.generation else ()

    def used(self, account: str, key: bytes) -> None:
        self._recent[account] = key

    async def bearer(self, token: str, workspace: str) -> frozenset[str] | None:
        caller = self._verify(token)
        if caller.kind == JOB:
            mine = caller.scope is not None and fold_scope(caller.scope.arm_id) == fold_scope(workspace)
            if not mine:
                raise Forbidden(f"Job {caller.job!r} belongs to another workspace than this storage account.")
            if not await self._job_lives(caller.oid, workspace):
                raise Unauthenticated(f"Job {caller.job!r} has ended, and its token with it.")
            return None
        if caller.session:
            session = await self._store.read(lambda read: read.session(caller.session))
            check_expiry(expiry_of(session), self._now())
        index = (await self._current()).index
        who = index.principal(caller.oid)
        if who is None or who.disabled:
            raise Unauthenticated(f"The principal {caller.name!r} is disabled, or does not exist any more.")
        if any(index.decide(who.oid, action, workspace).allowed for action in KEY_ACTIONS):
            return None
        letters = frozenset(
            letter
            for action, worth in _LETTERS.items()
            if index.decide(who.oid, action, workspace, data=True).allowed
            for letter in worth
        )
        if not letters:
            raise Forbidden(f"{who.name!r} has no role that opens the storage of {workspace}.")
        return letters

    async def _job_lives(self, uid: str, workspace: str) -> bool:
        row = await self._store.read(lambda read: read.by_uid(uid))
        return (
            row is not None
            and row.key.type == "jobs"
            and fold_scope(row.key.scope.arm_id) == fold_scope(workspace)
            and not JobState(row.state).final
        )

    async def _current(self) -> _View:
        view = self._view
        now = await self._store.read(lambda read: read.access_generation())
        if view is not None and view.generation == now:
            return view
        async with self._loading:
            view = self._view
            if view is None or view.generation < now:
                view = self._view = await self._store.read(
                    lambda read: _View(read.access_generation(), load_index(read), {})
                )
            return view
