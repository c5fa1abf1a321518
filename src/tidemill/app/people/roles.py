"""Role definitions and role assignments: listed, made, removed. Who may is checked before, by the gate."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.app.errors import absent
from tidemill.app.people import access
from tidemill.app.services import Caller, Services
from tidemill.app.workspaces import groups
from tidemill.catalog.roles import builtin_roles
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.model import Key, Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.role_explanations import Explanation, explain
from tidemill.domain.roles import Permission, RoleAssignment, RoleDefinition, covers, fold_scope
from tidemill.store.api import AlreadyExists, Read, Tx

_BUILTIN = {role.id: role for role in builtin_roles()}
_MAX_PATTERNS = 2000  # of all kinds, in one role
# Types of a workspace whose single resources roles are assigned at.
SINGLE = (
    "computes",
    "jobs",
    "datastores",
    "connections",
    "models",
    "data",
    "environments",
    "codes",
    "onlineEndpoints",
    "batchEndpoints",
)
ROLE_WRITE = "Microsoft.Authorization/roleDefinitions/write"
ROLE_DELETE = "Microsoft.Authorization/roleDefinitions/delete"


@dataclass(frozen=True, slots=True)
class Place:
    """A scope that routes name: a subscription, group or workspace, or a single resource of one
    (`below`: "jobs/NAME")."""

    scope: Scope
    below: str = ""

    @property
    def arm_id(self) -> str:
        return f"{self.scope.arm_id}/{self.below}" if self.below else self.scope.arm_id


@dataclass(frozen=True, slots=True)
class AssignmentDraft:
    role: str  # a definition's ARM id, or its GUID
    principal: str  # oid
    principal_type: str = ""  # checked where given
    description: str = ""


@dataclass(frozen=True, slots=True)
class RoleDraft:
    name: str
    permissions: tuple[Permission, ...]
    assignable_scopes: tuple[str, ...]
    description: str = ""


# Assignments.


async def assignments_at(
    services: Services, place: Place, *, only_above: bool = False, holder: str = "", assigned_to: str = ""
) -> Sequence[RoleAssignment]:
    """Those that count at a place, and those below it unless `only_above`. `holder`: of this principal;
    `assigned_to`: of this one or its groups."""
    at = fold_scope(place.arm_id)
    index = await services.access.current()
    holders = {assigned_to, *index.groups_of(assigned_to)} if assigned_to else {holder} if holder else None

    def look(read: Read) -> Sequence[RoleAssignment]:
        if holders is None:
            return read.role_assignments()
        return [found for oid in sorted(holders) for found in read.role_assignments(principal=oid)]

    rows = await services.store.read(look)
    return [
        row
        for row in rows
        if covers(fold_scope(row.scope), at) or (not only_above and covers(at, fold_scope(row.scope)))
    ]


async def assignment(services: Services, place: Place, id: str) -> RoleAssignment:
    """One that was made exactly at `place`. Raises NotFound."""
    row = await services.store.read(lambda read: read.role_assignment(id.lower()))
    if row is None or fold_scope(row.scope) != fold_scope(place.arm_id):
        raise NotFound(
            f"The role assignment '{id}' is not found at {place.arm_id}.", "RoleAssignmentNotFound", id
        )
    return row


async def assign(
    services: Services, caller: Caller, place: Place, id: str, draft: AssignmentDraft
) -> tuple[RoleAssignment, bool]:
    """-> (assignment, whether it is new). Raises InvalidRequest for a role or principal that does not exist,
    Conflict where the principal has the role there already."""
    wanted = RoleAssignment(
        _guid(id, "role assignment"),
        (await _existing(services, place)).arm_id,
        draft.principal,
        _role_id(draft.role),
        draft.description,
        services.clock.now(),
        caller.name,
    )

    def write(tx: Tx) -> tuple[RoleAssignment, bool]:
        _check_principal(tx, draft)
        _check_assignable(require_role(tx, wanted.role), wanted.scope)
        held = tx.role_assignment(wanted.id)
        if held is not None and _same(held, wanted):
            return held, False
        try:
            if held is not None:
                raise AlreadyExists(held.id)
            return tx.insert_role_assignment(wanted), True
        except AlreadyExists:
            raise Conflict("The role assignment already exists.", "RoleAssignmentExists", wanted.id) from None

    return await services.store.write(write)


def _same(a: RoleAssignment, b: RoleAssignment) -> bool:
    return (fold_scope(a.scope), a.principal, a.role) == (fold_scope(b.scope), b.principal, b.role)


def _check_principal(read: Read, draft: AssignmentDraft) -> None:
    who = read.principal(draft.principal)
    if who is None:
        raise InvalidRequest(
            f"Principal {draft.principal} does not exist here. `tidemill access list` has those that do.",
            "PrincipalNotFound",
            "principalId",
        )
    if draft.principal_type and draft.principal_type.lower() != who.kind.arm.lower():
        raise InvalidRequest(
            f"Principal {who.oid} ({who.name}) is a {who.kind.arm}, not a {draft.principal_type}.",
            "UnmatchedPrincipalType",
            "principalType",
        )


def _check_assignable(role: RoleDefinition, scope: str) -> None:
    if not any(covers(fold_scope(one), fold_scope(scope)) for one in role.assignable_scopes):
        raise InvalidRequest(
            f"Role {role.name!r} cannot be assigned at {scope}: its assignableScopes are "
            f"{', '.join(role.assignable_scopes)}.",
            "RoleAssignmentScopeNotAssignableToRoleDefinition",
            "roleDefinitionId",
        )


async def _existing(services: Services, place: Place) -> Place:
    """The place in its owner's spelling. Raises NotFound."""
    scope = place.scope
    if scope.group and not scope.workspace:
        scope = Scope(scope.subscription, (await groups.get(services, scope)).key.name)
    if not place.below:
        return Place(scope)
    type, _, name = place.below.partition("/")
    row = await services.store.read(lambda read: read.get(Key(scope, type, name)))
    if row is None:
        raise absent("Resource", place.below, [], f"workspace {scope.workspace!r}")
    return Place(scope, f"{row.key.type}/{row.key.name}")


# Definitions.


def require_role(read: Read, id: str) -> RoleDefinition:
    role = _BUILTIN.get(id) or read.role_definition(id)
    if role is None:
        raise _no_role(id)
    return role


def _no_role(id: str) -> NotFound:
    return NotFound(
        f"The specified role definition with ID '{id}' does not exist.", "RoleDefinitionDoesNotExist", id
    )


async def definition(services: Services, place: Place, id: str) -> RoleDefinition:
    """One that can be assigned at a place or below it. Raises NotFound."""

    def look(read: Read) -> RoleDefinition:
        role = require_role(read, _role_id(id))
        if not _offered(role, fold_scope(place.arm_id)):
            raise _no_role(id)
        return role

    return await services.store.read(look)


async def definitions_at(services: Services, arm_scope: str) -> Sequence[RoleDefinition]:
    """Those that can be assigned at a scope or below it ("" and "/": anywhere): built-in ones first."""
    custom = await services.store.read(lambda read: read.role_definitions())
    at = fold_scope(arm_scope)
    return [role for role in (*_BUILTIN.values(), *custom) if _offered(role, at)]


def _offered(role: RoleDefinition, at: str) -> bool:
    return any(covers(fold_scope(s), at) or covers(at, fold_scope(s)) for s in role.assignable_scopes)


async def define(
    services: Services, caller: Caller, id: str, draft: RoleDraft
) -> tuple[RoleDefinition, bool]:
    """A custom role, made or changed: -> (role, whether it is new). The caller must be allowed to at each of
    its assignable scopes, old and new."""
    id = _guid(id, "role definition")
    if id in _BUILTIN:
        raise InvalidRequest(
            f"{_BUILTIN[id].name!r} is a built-in role and stays as it is. Give the custom role a GUID of "
            "its own.",
            "RoleDefinitionIsBuiltIn",
            id,
        )
    _check_draft(services, draft)
    held = await services.store.read(lambda read: read.role_definition(id))
    for scope in {*draft.assignable_scopes, *(held.assignable_scopes if held else ())}:
        await access.authorise(services, caller, ROLE_WRITE, _scope_of(services, scope))
    now = services.clock.now()

    def write(tx: Tx) -> tuple[RoleDefinition, bool]:
        if any(role.name.lower() == draft.name.lower() for role in _BUILTIN.values()):
            raise _taken(draft.name)
        before = tx.role_definition(id)
        if before != held:
            raise _changed(id)
        made = RoleDefinition(
            id,
            draft.name,
            draft.permissions,
            draft.description,
            draft.assignable_scopes,
            created_at=before.created_at if before else now,
            created_by=before.created_by if before else caller.name,
            modified_at=now,
            revision=before.revision if before else 1,
        )
        try:
            if before is None:
                return tx.insert_role_definition(made), True
            return tx.update_role_definition(made), False
        except AlreadyExists:
            raise _taken(draft.name) from None

    return await services.store.write(write)


async def undefine(services: Services, caller: Caller, id: str) -> RoleDefinition | None:
    """Deletes a custom role that nobody has. None if there was none."""
    id = _role_id(id)
    if id in _BUILTIN:
        raise InvalidRequest(
            f"{_BUILTIN[id].name!r} is a built-in role and stays.", "RoleDefinitionIsBuiltIn"
        )
    held = await services.store.read(lambda read: read.role_definition(id))
    for scope in held.assignable_scopes if held else ():
        await access.authorise(services, caller, ROLE_DELETE, _scope_of(services, scope))

    def write(tx: Tx) -> RoleDefinition | None:
        found = tx.role_definition(id)
        if found != held:
            raise _changed(id)
        if found is None:
            return None
        used = tx.role_assignments(role=id)
        if used:
            raise InvalidRequest(
                f"Role {found.name!r} is assigned {len(used)} times, first at {used[0].scope}. Remove those "
                "assignments first.",
                "RoleDefinitionHasAssignments",
                id,
            )
        tx.delete_role_definition(found)
        return found

    return await services.store.write(write)


def _changed(id: str) -> Conflict:
    """Else what was authorised is not what is written over."""
    return Conflict(f"Role {id} was changed at the same moment. Read it again and repeat.", target=id)


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a role named {name!r} already.", "RoleDefinitionWithSameNameExists", name)


def _check_draft(services: Services, draft: RoleDraft) -> None:
    if not draft.name.strip() or len(draft.name) > 512 or not draft.name.isprintable():
        raise InvalidRequest(
            f"roleName {draft.name[:80]!r} is empty, too long or not printable.", target="roleName"
        )
    patterns = [p for one in draft.permissions for p in _all_patterns(one)]
    if not patterns:
        raise InvalidRequest(
            f"Role {draft.name!r} allows nothing: give at least one action.", target="permissions"
        )
    if len(patterns) > _MAX_PATTERNS:
        raise InvalidRequest(f"A role has at most {_MAX_PATTERNS} actions; this one {len(patterns)}.")
    for pattern in patterns:
        if not pattern or len(pattern) > 512 or not pattern.isascii() or not pattern.isprintable():
            raise InvalidRequest(
                f"{pattern[:80]!r} is no action: write PROVIDER/TYPE/VERB, * for any part of it.",
                "InvalidActionOrNotAction",
                "permissions",
            )
    if not draft.assignable_scopes:
        raise InvalidRequest(
            "assignableScopes is empty: name the subscription, group or workspace that the role is for.",
            target="assignableScopes",
        )
    for scope in draft.assignable_scopes:
        _scope_of(services, scope)


def _all_patterns(one: Permission) -> tuple[str, ...]:
    return (*one.actions, *one.not_actions, *one.data_actions, *one.not_data_actions)


def _scope_of(services: Services, text: str) -> Scope:
    """An assignable scope of this home. Raises InvalidRequest."""
    scope = parse_scope(text)
    if scope is None or scope.below or scope.scope.subscription.lower() != _own(services):
        raise InvalidRequest(
            f"{text!r} is no assignable scope here: give /subscriptions/{services.settings.subscription}, or "
            "a resource group or workspace of it.",
            "InvalidAssignableScope",
            "assignableScopes",
        )
    return scope.scope


def _own(services: Services) -> str:
    return services.settings.subscription.lower()


def parse_scope(text: str) -> Place | None:
    """An ARM id of a subscription, group, workspace or a resource of it; None of anything else."""
    parts = text.strip("/").split("/")
    words = [part.lower() for part in parts]
    if "" in parts or any(part in (".", "..") for part in parts) or words[:1] != ["subscriptions"]:
        return None
    if len(parts) == 2:
        return Place(Scope(parts[1]))
    if words[2] != "resourcegroups" or len(parts) < 4:
        return None
    if len(parts) == 4:
        return Place(Scope(parts[1], parts[3]))
    ours = ["providers", "microsoft.machinelearningservices"]
    if words[4:6] != ours or words[6:7] not in (["workspaces"], ["registries"]):
        return None
    if len(parts) % 2 or len(parts) < 8:
        return None
    if words[6] == "registries":
        return Place(Scope.of_registry(parts[1], parts[3], parts[7])) if len(parts) == 8 else None
    return Place(Scope(parts[1], parts[3], parts[7]), "/".join(parts[8:]))


# Questions.


async def explained(
    services: Services, who: Principal, action: str, arm_scope: str, data: bool = False
) -> Explanation:
    return explain(await services.access.current(), who.oid, action, arm_scope, data)


async def permissions_of(services: Services, caller: Caller, place: Place) -> Sequence[Permission]:
    """What the caller's roles say at a place, one entry for each permission of each role."""
    index = await services.access.current()
    at = fold_scope(place.arm_id)
    held = index.held(caller.acts_as or caller.oid)
    return [
        permission
        for scope, ones in held.items()
        if covers(scope, at)
        for one in ones
        for permission in one.role.permissions
    ]


def _role_id(text: str) -> str:
    """The GUID at the end of a role definition's ARM id."""
    return text.rstrip("/").rsplit("/", 1)[-1].lower()


def _guid(text: str, what: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise InvalidRequest(f"The {what} ID {text!r} must be a GUID.", "InvalidId", text) from None


def kind_of(text: str) -> PrincipalKind:
    """`user`, `group`, `ServicePrincipal` … Raises InvalidRequest naming those that exist."""
    for kind in PrincipalKind:
        if kind.value.lower() == text.replace("-", "").lower():
            return kind
    names = ", ".join(kind.value for kind in PrincipalKind)
    raise InvalidRequest(f"{text!r} is no kind of principal. There are: {names}.", target="kind")
