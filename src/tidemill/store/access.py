"""The part of the store that holds principals, groups, roles and assignments: queries and changes.

Implemented by `store.accesssql` and `store.accessmemory`. A commit that changes any of it touches
(`TOUCHED_*`, id), so that what is kept in memory of it stays exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import RoleAssignment, RoleDefinition

TOUCHED_PRINCIPAL = "principal"  # uid: oid
TOUCHED_GROUP = "group"  # a group's members; uid: its oid
TOUCHED_ROLE = "role-definition"  # uid: id
TOUCHED_ASSIGNMENT = "role-assignment"  # uid: id


GENERATION = "access.generation"  # in meta: counts changes, for processes that hear of no commits


class AccessRead(Protocol):
    def access_generation(self) -> int:
        """Grows with every change to anything below."""
        ...

    def principal(self, oid: str) -> Principal | None: ...
    def principal_named(self, name: str) -> Principal | None:
        """By name, cases not told apart."""
        ...

    def principal_of_app(self, app_id: str) -> Principal | None: ...
    def principals_of_resource(self, resource: str) -> Sequence[Principal]:
        """The identities that go with a resource, by its ARM id."""
        ...

    def principals(self, kind: PrincipalKind | None = None) -> Sequence[Principal]:
        """By name."""
        ...

    def members(self, group: str) -> Sequence[str]:
        """The oids that are directly in a group, sorted."""
        ...

    def groups_with(self, member: str) -> Sequence[str]:
        """The oids of the groups that `member` is directly in, sorted."""
        ...

    def memberships(self) -> Sequence[tuple[str, str]]:
        """Every (group, member)."""
        ...

    def role_definition(self, id: str) -> RoleDefinition | None:
        """A custom role."""
        ...

    def role_definitions(self) -> Sequence[RoleDefinition]:
        """Every custom role, by name."""
        ...

    def role_assignment(self, id: str) -> RoleAssignment | None: ...
    def role_assignments(
        self, *, principal: str | None = None, role: str | None = None, scope: str | None = None
    ) -> Sequence[RoleAssignment]:
        """By creation. `scope`: those made exactly there."""
        ...


class AccessTx(AccessRead, Protocol):
    def insert_principal(self, principal: Principal) -> Principal:
        """Raises AlreadyExists for an oid, a name or a client id that is taken."""
        ...

    def update_principal(self, principal: Principal) -> Principal:
        """Kind, app_id, resource, created_at and created_by stay as they were inserted."""
        ...

    def delete_principal(self, principal: Principal) -> None:
        """With its memberships, as member and as group. Its assignments are the caller's to remove."""
        ...

    def drop_principals_of(self, resource: str) -> None:
        """The identities that go with a resource, with their assignments."""
        ...

    def add_member(self, group: str, member: str) -> bool:
        """False if it was there."""
        ...

    def remove_member(self, group: str, member: str) -> bool:
        """False if it was not there."""
        ...

    def insert_role_definition(self, role: RoleDefinition) -> RoleDefinition: ...
    def update_role_definition(self, role: RoleDefinition) -> RoleDefinition: ...
    def delete_role_definition(self, role: RoleDefinition) -> None: ...

    def insert_role_assignment(self, assignment: RoleAssignment) -> RoleAssignment:
        """Raises AlreadyExists for an id, or for a principal that has that role at that scope."""
        ...

    def delete_role_assignment(self, id: str) -> bool:
        """False if it was not there."""
        ...
