"""`store.access` as portable SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from tidemill.domain.model import Touched
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import Permission, RoleAssignment, RoleDefinition, fold_scope
from tidemill.store.access import (
    GENERATION,
    TOUCHED_ASSIGNMENT,
    TOUCHED_GROUP,
    TOUCHED_PRINCIPAL,
    TOUCHED_ROLE,
)
from tidemill.store.api import AlreadyExists, StaleRevision
from tidemill.store.rows import Row, fold


class Cursor(Protocol):
    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


Execute = Callable[[str, Sequence[Any]], Cursor]

_PRINCIPAL = "oid, kind, name, display_name, app_id, resource, disabled, created_at, created_by, revision"
_ROLE = "id, name, permissions, description, assignable_scopes, created_at, created_by, modified_at, revision"
_ASSIGNMENT = "id, scope, principal, role, description, created_at, created_by"
_SELECT_PRINCIPAL = f"SELECT {_PRINCIPAL} FROM principals"
_SELECT_ROLE = f"SELECT {_ROLE} FROM role_definitions"
_SELECT_ASSIGNMENT = f"SELECT {_ASSIGNMENT} FROM role_assignments"
_UPDATE_PRINCIPAL = (
    "UPDATE principals SET name = ?, display_name = ?, disabled = ?, revision = ?, name_key = ? "
    "WHERE oid = ? AND revision = ?"
)
_UPDATE_ROLE = (
    "UPDATE role_definitions SET name = ?, permissions = ?, description = ?, assignable_scopes = ?, "
    "modified_at = ?, revision = ?, name_key = ? WHERE id = ? AND revision = ?"
)

_encode = msgspec.json.encode
_permissions = msgspec.json.Decoder(tuple[Permission, ...]).decode
_names = msgspec.json.Decoder(tuple[str, ...]).decode
_KINDS = {kind.value: kind for kind in PrincipalKind}


def _insert(table: str, columns: str) -> str:
    marks = ", ".join("?" * (columns.count(",") + 1))
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING"


def _to_principal(row: Row) -> Principal:
    oid, kind, name, display_name, app_id, resource, disabled, *rest = row
    return Principal(oid, _KINDS[kind], name, display_name, app_id, resource, disabled == 1, *rest)


def _to_role(row: Row) -> RoleDefinition:
    id, name, permissions, description, scopes, created_at, created_by, modified_at, revision = row
    return RoleDefinition(
        id,
        name,
        _permissions(permissions),
        description,
        _names(scopes),
        False,
        created_at,
        created_by,
        modified_at,
        revision,
    )


class SqlAccessRead:
    __slots__ = ("_execute",)

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def access_generation(self) -> int:
        row = self._execute("SELECT value FROM meta WHERE key = ?", (GENERATION,)).fetchone()
        return 0 if row is None else int(bytes(row[0]))

    def principal(self, oid: str) -> Principal | None:
        return self._principal(f"{_SELECT_PRINCIPAL} WHERE oid = ?", oid)

    def principal_named(self, name: str) -> Principal | None:
        return self._principal(f"{_SELECT_PRINCIPAL} WHERE name_key = ?", fold(name))

    def principal_of_app(self, app_id: str) -> Principal | None:
        return self._principal(f"{_SELECT_PRINCIPAL} WHERE app_key = ? AND app_key <> ''", fold(app_id))

    def _principal(self, sql: str, value: str) -> Principal | None:
        row = self._execute(sql, (value,)).fetchone()
        return None if row is None else _to_principal(row)

    def principals_of_resource(self, resource: str) -> Sequence[Principal]:
        sql = f"{_SELECT_PRINCIPAL} WHERE resource_key = ? AND resource_key <> '' ORDER BY name_key"
        return tuple(map(_to_principal, self._execute(sql, (fold_scope(resource),)).fetchall()))

    def principals(self, kind: PrincipalKind | None = None) -> Sequence[Principal]:
        where, values = ("", ()) if kind is None else (" WHERE kind = ?", (kind.value,))
        found = self._execute(f"{_SELECT_PRINCIPAL}{where} ORDER BY name_key", values).fetchall()
        return tuple(map(_to_principal, found))

    def members(self, group: str) -> Sequence[str]:
        sql = "SELECT member_oid FROM group_members WHERE group_oid = ? ORDER BY member_oid"
        return tuple(row[0] for row in self._execute(sql, (group,)).fetchall())

    def groups_with(self, member: str) -> Sequence[str]:
        sql = "SELECT group_oid FROM group_members WHERE member_oid = ? ORDER BY group_oid"
        return tuple(row[0] for row in self._execute(sql, (member,)).fetchall())

    def memberships(self) -> Sequence[tuple[str, str]]:
        sql = "SELECT group_oid, member_oid FROM group_members ORDER BY group_oid, member_oid"
        return tuple((row[0], row[1]) for row in self._execute(sql, ()).fetchall())

    def role_definition(self, id: str) -> RoleDefinition | None:
        row = self._execute(f"{_SELECT_ROLE} WHERE id = ?", (id,)).fetchone()
        return None if row is None else _to_role(row)

    def role_definitions(self) -> Sequence[RoleDefinition]:
        return tuple(map(_to_role, self._execute(f"{_SELECT_ROLE} ORDER BY name_key", ()).fetchall()))

    def role_assignment(self, id: str) -> RoleAssignment | None:
        row = self._execute(f"{_SELECT_ASSIGNMENT} WHERE id = ?", (id,)).fetchone()
        return None if row is None else RoleAssignment(*row)

    def role_assignments(
        self, *, principal: str | None = None, role: str | None = None, scope: str | None = None
    ) -> Sequence[RoleAssignment]:
        wanted = {
            "principal": principal,
            "role": role,
            "scope_key": None if scope is None else fold_scope(scope),
        }
        clauses = [f"{column} = ?" for column, value in wanted.items() if value is not None]
        where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
        values = [value for value in wanted.values() if value is not None]
        found = self._execute(f"{_SELECT_ASSIGNMENT}{where} ORDER BY created_at, id", values).fetchall()
        return tuple(RoleAssignment(*row) for row in found)


class SqlAccessTx(SqlAccessRead):
    __slots__ = ("touched",)

    touched: list[Touched]

    def insert_principal(self, principal: Principal) -> Principal:
        p = principal
        values = (p.oid, p.kind.value, p.name, p.display_name, p.app_id, p.resource, 1 if p.disabled else 0)
        values += (p.created_at, p.created_by, p.revision)
        values += (fold(p.name), fold(p.app_id), fold_scope(p.resource))
        sql = _insert("principals", f"{_PRINCIPAL}, name_key, app_key, resource_key")
        if self._execute(sql, values).rowcount == 0:
            raise AlreadyExists(p.name)
        self._touch(TOUCHED_PRINCIPAL, p.oid)
        return p

    def update_principal(self, principal: Principal) -> Principal:
        p = principal
        other = self.principal_named(p.name)
        if other is not None and other.oid != p.oid:
            raise AlreadyExists(p.name)
        values = (p.name, p.display_name, 1 if p.disabled else 0, p.revision + 1, fold(p.name))
        if self._execute(_UPDATE_PRINCIPAL, (*values, p.oid, p.revision)).rowcount == 0:
            raise StaleRevision(p.oid)
        self._touch(TOUCHED_PRINCIPAL, p.oid)
        return replace(p, revision=p.revision + 1)

    def delete_principal(self, principal: Principal) -> None:
        sql = "DELETE FROM principals WHERE oid = ? AND revision = ?"
        if self._execute(sql, (principal.oid, principal.revision)).rowcount == 0:
            raise StaleRevision(principal.oid)
        for group in {*self.groups_with(principal.oid), principal.oid}:
            self._touch(TOUCHED_GROUP, group)
        both = (principal.oid, principal.oid)
        self._execute("DELETE FROM group_members WHERE group_oid = ? OR member_oid = ?", both)
        self._touch(TOUCHED_PRINCIPAL, principal.oid)

    def add_member(self, group: str, member: str) -> bool:
        sql = _insert("group_members", "group_oid, member_oid")
        return self._members_changed(group, self._execute(sql, (group, member)))

    def remove_member(self, group: str, member: str) -> bool:
        sql = "DELETE FROM group_members WHERE group_oid = ? AND member_oid = ?"
        return self._members_changed(group, self._execute(sql, (group, member)))

    def _members_changed(self, group: str, done: Cursor) -> bool:
        if done.rowcount == 0:
            return False
        self._touch(TOUCHED_GROUP, group)
        return True

    def insert_role_definition(self, role: RoleDefinition) -> RoleDefinition:
        values = (role.id, role.name, _encode(role.permissions), role.description)
        values += (_encode(role.assignable_scopes), role.created_at, role.created_by, role.modified_at)
        values += (role.revision, fold(role.name))
        if self._execute(_insert("role_definitions", f"{_ROLE}, name_key"), values).rowcount == 0:
            raise AlreadyExists(role.name)
        self._touch(TOUCHED_ROLE, role.id)
        return role

    def update_role_definition(self, role: RoleDefinition) -> RoleDefinition:
        sql = "SELECT id FROM role_definitions WHERE name_key = ? AND id <> ?"
        if self._execute(sql, (fold(role.name), role.id)).fetchone() is not None:
            raise AlreadyExists(role.name)
        values = (role.name, _encode(role.permissions), role.description, _encode(role.assignable_scopes))
        values += (role.modified_at, role.revision + 1, fold(role.name), role.id, role.revision)
        if self._execute(_UPDATE_ROLE, values).rowcount == 0:
            raise StaleRevision(role.id)
        self._touch(TOUCHED_ROLE, role.id)
        return replace(role, revision=role.revision + 1)

    def delete_role_definition(self, role: RoleDefinition) -> None:
        sql = "DELETE FROM role_definitions WHERE id = ? AND revision = ?"
        if self._execute(sql, (role.id, role.revision)).rowcount == 0:
            raise StaleRevision(role.id)
        self._touch(TOUCHED_ROLE, role.id)

    def insert_role_assignment(self, assignment: RoleAssignment) -> RoleAssignment:
        a = assignment
        values = (a.id, a.scope, a.principal, a.role, a.description, a.created_at, a.created_by)
        sql = _insert("role_assignments", f"{_ASSIGNMENT}, scope_key")
        if self._execute(sql, (*values, fold_scope(a.scope))).rowcount == 0:
            raise AlreadyExists(a.id)
        self._touch(TOUCHED_ASSIGNMENT, a.id)
        return a

    def delete_role_assignment(self, id: str) -> bool:
        if self._execute("DELETE FROM role_assignments WHERE id = ?", (id,)).rowcount == 0:
            return False
        self._touch(TOUCHED_ASSIGNMENT, id)
        return True

    def drop_principals_of(self, resource: str) -> None:
        for principal in self.principals_of_resource(resource):
            for assignment in self.role_assignments(principal=principal.oid):
                self.delete_role_assignment(assignment.id)
            self.delete_principal(principal)

    def drop_assignments_at(self, scope: str) -> None:
        """Those at the scope and below it."""
        at = fold_scope(scope)
        sql = "SELECT id FROM role_assignments WHERE scope_key = ? OR (scope_key > ? AND scope_key < ?)"
        for row in self._execute(sql, (at, f"{at}/", f"{at}0")).fetchall():  # "0" follows "/"
            self.delete_role_assignment(row[0])

    def _touch(self, kind: str, id: str) -> None:
        self.touched.append(Touched(kind, id))
        sql = (
            "INSERT INTO meta (key, value) VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        )
        self._execute(sql, (GENERATION, b"%d" % (self.access_generation() + 1)))
