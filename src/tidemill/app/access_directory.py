"""Principals, roles and assignments in memory, as of the last commit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tidemill.catalog.roles import builtin_roles
from tidemill.domain.model import Touched
from tidemill.domain.roles import AccessIndex
from tidemill.store.access import TOUCHED_ASSIGNMENT, TOUCHED_GROUP, TOUCHED_PRINCIPAL, TOUCHED_ROLE
from tidemill.store.api import Read, Store

_KINDS = frozenset((TOUCHED_ASSIGNMENT, TOUCHED_GROUP, TOUCHED_PRINCIPAL, TOUCHED_ROLE))


class AccessDirectory:
    """`current()` is never older than the last commit that was acknowledged: commits say what they touched
    before their writers go on, and what was touched is read again before the next decision."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index: AccessIndex | None = None
        self._touched: set[Touched] = set()
        self._loading = asyncio.Lock()
        store.on_commit(self._on_commit)

    def _on_commit(self, touched: frozenset[Touched]) -> None:
        for one in touched:
            if one.kind in _KINDS:
                self._touched.add(one)

    async def current(self) -> AccessIndex:
        index = self._index
        if index is not None and not self._touched and not self._loading.locked():
            return index
        async with self._loading:
            if self._index is None:
                self._touched.clear()
                self._index = await self._store.read(load_index)
            while self._touched:
                await self._catch_up(self._index)
            return self._index

    async def _catch_up(self, index: AccessIndex) -> None:
        wanted, self._touched = self._touched, set()
        try:
            await self._store.read(lambda read: _apply(read, index, wanted))
        except BaseException:
            self._touched |= wanted
            raise


def load_index(read: Read) -> AccessIndex:
    """Everything, read at once."""
    index = AccessIndex(builtin_roles())
    for principal in read.principals():
        index.put_principal(principal)
    members: dict[str, list[str]] = {}
    for group, member in read.memberships():
        members.setdefault(group, []).append(member)
    for group, held in members.items():
        index.put_members(group, held)
    for role in read.role_definitions():
        index.put_role(role)
    for assignment in read.role_assignments():
        index.put_assignment(assignment)
    return index


def _apply(read: Read, index: AccessIndex, touched: Iterable[Touched]) -> None:
    """Idempotent: what is read is the state, not the change."""
    for one in touched:
        if one.kind == TOUCHED_PRINCIPAL:
            principal = read.principal(one.uid)
            index.put_principal(principal) if principal else index.drop_principal(one.uid)
        elif one.kind == TOUCHED_GROUP:
            index.put_members(one.uid, read.members(one.uid))
        elif one.kind == TOUCHED_ROLE:
            role = read.role_definition(one.uid)
            index.put_role(role) if role else index.drop_role(one.uid)
        else:
            assignment = read.role_assignment(one.uid)
            index.put_assignment(assignment) if assignment else index.drop_assignment(one.uid)
