"""`store.access` over dictionaries. Mixed into MemoryRead and MemoryTx, whose undo log it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tidemill.domain.model import Touched
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import RoleAssignment, RoleDefinition, covers, fold_scope
from tidemill.store.access import (
    TOUCHED_ASSIGNMENT,
    TOUCHED_GROUP,
    TOUCHED_PRINCIPAL,
    TOUCHED_ROLE,
)
from tidemill.store.api import AlreadyExists, StaleRevision
from tidemill.store.rows import fold


class AccessTables:
    def __init__(self) -> None:
        self.principals: dict[str, Principal] = {}
        self.members: dict[tuple[str, str], None] = {}
        self.roles: dict[str, RoleDefinition] = {}
        self.assignments: dict[str, RoleAssignment] = {}
        self.generation: dict[None, int] = {None: 0}


class MemoryAccessRead:
    _access: AccessTables

    def access_generation(self) -> int:
        return self._access.generation[None]

    def principal(self, oid: str) -> Principal | None:
        return self._access.principals.get(oid)

    def principal_named(self, name: str) -> Principal | None:
        return next((p for p in self._access.principals.values() if fold(p.name) == fold(name)), None)

    def principal_of_app(self, app_id: str) -> Principal | None:
        found = (p for p in self._access.principals.values() if p.app_id and fold(p.app_id) == fold(app_id))
        return next(found, None)

    def principals_of_resource(self, resource: str) -> Sequence[Principal]:
        wanted = fold_scope(resource)
        return tuple(p for p in self.principals() if wanted and fold_scope(p.resource) == wanted)

    def principals(self, kind: PrincipalKind | None = None) -> Sequence[Principal]:
        found = (p for p in self._access.principals.values() if kind is None or p.kind == kind)
        return tuple(sorted(found, key=lambda p: fold(p.name)))

    def members(self, group: str) -> Sequence[str]:
        return tuple(sorted(member for holder, member in self._access.members if holder == group))

    def groups_with(self, member: str) -> Sequence[str]:
        return tuple(sorted(group for group, held in self._access.members if held == member))

    def memberships(self) -> Sequence[tuple[str, str]]:
        return tuple(sorted(self._access.members))

    def role_definition(self, id: str) -> RoleDefinition | None:
        return self._access.roles.get(id)

    def role_definitions(self) -> Sequence[RoleDefinition]:
        return tuple(sorted(self._access.roles.values(), key=lambda role: fold(role.name)))

    def role_assignment(self, id: str) -> RoleAssignment | None:
        return self._access.assignments.get(id)

    def role_assignments(
        self, *, principal: str | None = None, role: str | None = None, scope: str | None = None
    ) -> Sequence[RoleAssignment]:
        found = (
            a
            for a in self._access.assignments.values()
            if (principal is None or a.principal == principal)
            and (role is None or a.role == role)
            and (scope is None or fold_scope(a.scope) == fold_scope(scope))
        )
        return tuple(sorted(found, key=lambda a: (a.created_at, a.id)))


class MemoryAccessTx(MemoryAccessRead):
    touched: list[Touched]

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        raise NotImplementedError  # MemoryTx's, with its undo

    def _drop(self, table: dict[Any, Any], key: Any) -> None:
        raise NotImplementedError

    def insert_principal(self, principal: Principal) -> Principal:
        taken = principal.oid in self._access.principals or self.principal_named(principal.name)
        if taken or (principal.app_id and self.principal_of_app(principal.app_id)):
            raise AlreadyExists(principal.name)
        self._set(self._access.principals, principal.oid, principal)
        self._touch(TOUCHED_PRINCIPAL, principal.oid)
        return principal

    def update_principal(self, principal: Principal) -> Principal:
        other = self.principal_named(principal.name)
        if other is not None and other.oid != principal.oid:
            raise AlreadyExists(principal.name)
        held = self._access.principals.get(principal.oid)
        if held is None or held.revision != principal.revision:
            raise StaleRevision(principal.oid)
        revision = principal.revision + 1
        changed = {"name": principal.name, "display_name": principal.display_name}
        stored = replace(held, **changed, disabled=principal.disabled, revision=revision)
        self._set(self._access.principals, principal.oid, stored)
        self._touch(TOUCHED_PRINCIPAL, principal.oid)
        return replace(principal, revision=revision)

    def delete_principal(self, principal: Principal) -> None:
        held = self._access.principals.get(principal.oid)
        if held is None or held.revision != principal.revision:
            raise StaleRevision(principal.oid)
        for group in {*self.groups_with(principal.oid), principal.oid}:
            self._touch(TOUCHED_GROUP, group)
        for pair in [pair for pair in self._access.members if principal.oid in pair]:
            self._drop(self._access.members, pair)
        self._drop(self._access.principals, principal.oid)
        self._touch(TOUCHED_PRINCIPAL, principal.oid)

    def add_member(self, group: str, member: str) -> bool:
        if (group, member) in self._access.members:
            return False
        self._set(self._access.members, (group, member), None)
        self._touch(TOUCHED_GROUP, group)
        return True

    def remove_member(self, group: str, member: str) -> bool:
        if (group, member) not in self._access.members:
            return False
        self._drop(self._access.members, (group, member))
        self._touch(TOUCHED_GROUP, group)
        return True

    def insert_role_definition(self, role: RoleDefinition) -> RoleDefinition:
        if role.id in self._access.roles or self._role_named(role.name):
            raise AlreadyExists(role.name)
        self._set(self._access.roles, role.id, role)
        self._touch(TOUCHED_ROLE, role.id)
        return role

    def update_role_definition(self, role: RoleDefinition) -> RoleDefinition:
        other = self._role_named(role.name)
        if other is not None and other.id != role.id:
            raise AlreadyExists(role.name)
        held = self._access.roles.get(role.id)
        if held is None or held.revision != role.revision:
            raise StaleRevision(role.id)
        stored = replace(
            role, created_at=held.created_at, created_by=held.created_by, revision=role.revision + 1
        )
        self._set(self._access.roles, role.id, stored)
        self._touch(TOUCHED_ROLE, role.id)
        return replace(role, revision=role.revision + 1)

    def delete_role_definition(self, role: RoleDefinition) -> None:
        held = self._access.roles.get(role.id)
        if held is None or held.revision != role.revision:
            raise StaleRevision(role.id)
        self._drop(self._access.roles, role.id)
        self._touch(TOUCHED_ROLE, role.id)

    def _role_named(self, name: str) -> RoleDefinition | None:
        return next((role for role in self._access.roles.values() if fold(role.name) == fold(name)), None)

    def insert_role_assignment(self, assignment: RoleAssignment) -> RoleAssignment:
        same = self.role_assignments(
            principal=assignment.principal, role=assignment.role, scope=assignment.scope
        )
        if same or assignment.id in self._access.assignments:
            raise AlreadyExists(assignment.id)
        self._set(self._access.assignments, assignment.id, assignment)
        self._touch(TOUCHED_ASSIGNMENT, assignment.id)
        return assignment

    def delete_role_assignment(self, id: str) -> bool:
        if id not in self._access.assignments:
            return False
        self._drop(self._access.assignments, id)
        self._touch(TOUCHED_ASSIGNMENT, id)
        return True

    def drop_principals_of(self, resource: str) -> None:
        for principal in self.principals_of_resource(resource):
            for assignment in self.role_assignments(principal=principal.oid):
                self.delete_role_assignment(assignment.id)
            self.delete_principal(principal)

    def drop_assignments_at(self, scope: str) -> None:
        at = fold_scope(scope)
        for id in [a.id for a in self._access.assignments.values() if covers(at, fold_scope(a.scope))]:
            self.delete_role_assignment(id)

    def _touch(self, kind: str, id: str) -> None:
        self.touched.append(Touched(kind, id))
        self._set(self._access.generation, None, self.access_generation() + 1)
