"""Roles, assignments, and the decision: may this principal do that there, and by which assignment.

The rules are ARM's. A scope is an ARM id; an assignment counts there and everywhere below. One role allows an
action that one of its `actions` matches and none of the same permission's `notActions`; roles add up. Control
`actions` and `dataActions` are two worlds: one says nothing about the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tidemill.domain.principals import Principal, PrincipalKind

OWNER_ROLE = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
_MEMO = 65_536  # answers of roles that are kept


@dataclass(frozen=True, slots=True)
class Permission:
    """Patterns: `*` stands for any text, slashes included."""

    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    data_actions: tuple[str, ...] = ()
    not_data_actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoleDefinition:
    """`id` is a GUID. `assignable_scopes`: where it may be assigned ("/": anywhere)."""

    id: str
    name: str
    permissions: tuple[Permission, ...]
    description: str = ""
    assignable_scopes: tuple[str, ...] = ("/",)
    builtin: bool = False
    created_at: int = 0
    created_by: str = ""
    modified_at: int = 0
    revision: int = 1


@dataclass(frozen=True, slots=True)
class RoleAssignment:
    """`id` is a GUID; `scope` an ARM id without a slash at its end, in its owner's spelling."""

    id: str
    scope: str
    principal: str  # oid
    role: str  # RoleDefinition.id
    description: str = ""
    created_at: int = 0
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What came out, and why. `via` are the groups from the principal to the assignment's, outermost last.
    An allowed decision without an assignment is about what everybody may."""

    allowed: bool
    action: str
    scope: str
    reason: str
    assignment: RoleAssignment | None = None
    role: RoleDefinition | None = None
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """One assignment that a principal has, with its role and the groups it comes through."""

    assignment: RoleAssignment
    role: RoleDefinition
    via: tuple[str, ...] = ()


def fold_scope(scope: str) -> str:
    """The form that scopes are compared in: no cases, no slash at the end ("/" itself is "")."""
    return scope.rstrip("/").lower()


def covers(outer: str, inner: str) -> bool:
    """Whether folded `inner` is `outer` or lies below it. "" covers everything."""
    return inner == outer or inner.startswith(outer + "/")


def matches(pattern: str, action: str) -> bool:
    """Whether a pattern of a role matches an action. `/*/` stands for no segment, too: so Azure's own
    roles mean it (`workspaces/*/write` takes in `workspaces/write`, or AzureML Data Scientist would not have
    to except it; `computes/*/write` takes away `computes/write`). No pattern takes long: there is no
    backtracking."""
    return _glob(pattern.lower().split("*"), action.lower())


def _glob(literals: Sequence[str], text: str) -> bool:
    first, rest = literals[0], literals[1:]
    if not rest:
        return text == first
    if not text.startswith(first):
        return False
    at, before = len(first), first
    for literal in rest[:-1]:
        found = text.find(literal, at - _overlap(before, literal))
        if found < 0:
            return False
        at, before = found + len(literal), literal or before
    last = rest[-1]
    return text.endswith(last) and len(text) - len(last) >= at - _overlap(before, last)


def _overlap(before: str, after: str) -> int:
    """`a/*/b`: the two slashes may be the same one."""
    return 1 if before.endswith("/") and after.startswith("/") else 0


def permits(permission: Permission, action: str, data: bool = False) -> bool:
    yes = permission.data_actions if data else permission.actions
    no = permission.not_data_actions if data else permission.not_actions
    return any(matches(p, action) for p in yes) and not any(matches(p, action) for p in no)


def allows(role: RoleDefinition, action: str, data: bool = False) -> bool:
    return any(permits(permission, action, data) for permission in role.permissions)


class AccessIndex:
    """Everything that decides about access, kept in the order that decisions need. It is told of changes and
    decides at any time; the cost of a decision depends on the depth of the scope and on what is assigned at
    each level of it, not on how many assignments there are."""

    def __init__(self, builtin: Iterable[RoleDefinition] = ()) -> None:
        self._builtin = {role.id: role for role in builtin}
        self._roles: dict[str, RoleDefinition] = dict(self._builtin)
        self._principals: dict[str, Principal] = {}
        self._assignments: dict[str, RoleAssignment] = {}
        self._of: dict[str, dict[str, RoleAssignment]] = {}  # principal -> its assignments
        self._members: dict[str, frozenset[str]] = {}  # group -> members
        self._groups: dict[str, set[str]] = {}  # member -> groups it is in directly
        self._held: dict[str, Mapping[str, Sequence[Held]]] = {}  # principal -> folded scope -> assignments
        self._memo: dict[tuple[str, str, bool], bool] = {}

    # What changed.

    def put_principal(self, principal: Principal) -> None:
        self._principals[principal.oid] = principal
        self._held.clear()

    def drop_principal(self, oid: str) -> None:
        self._principals.pop(oid, None)
        self._held.clear()

    def put_members(self, group: str, members: Iterable[str]) -> None:
        for member in self._members.pop(group, frozenset()):
            self._groups[member].discard(group)
        self._members[group] = frozenset(members)
        for member in self._members[group]:
            self._groups.setdefault(member, set()).add(group)
        self._held.clear()

    def put_role(self, role: RoleDefinition) -> None:
        self._roles[role.id] = role
        self._forget()

    def drop_role(self, id: str) -> None:
        self._roles.pop(id, None)
        if id in self._builtin:
            self._roles[id] = self._builtin[id]
        self._forget()

    def put_assignment(self, assignment: RoleAssignment) -> None:
        self.drop_assignment(assignment.id)
        self._assignments[assignment.id] = assignment
        self._of.setdefault(assignment.principal, {})[assignment.id] = assignment

    def drop_assignment(self, id: str) -> None:
        found = self._assignments.pop(id, None)
        if found is not None:
            del self._of[found.principal][id]
        self._held.clear()

    def _forget(self) -> None:
        self._held.clear()
        self._memo.clear()

    # What is known.

    def principal(self, oid: str) -> Principal | None:
        return self._principals.get(oid)

    def role(self, id: str) -> RoleDefinition | None:
        return self._roles.get(id)

    def roles(self) -> Sequence[RoleDefinition]:
        """Azure's and Tidemill's own first, then custom ones by name."""
        return sorted(self._roles.values(), key=lambda role: (not role.builtin, role.name.lower()))

    def groups_of(self, oid: str) -> Mapping[str, tuple[str, ...]]:
        """Every group that the principal is in, nested ones too -> the chain of groups that leads there."""
        found: dict[str, tuple[str, ...]] = {}
        level: list[tuple[str, tuple[str, ...]]] = [(oid, ())]
        while level:
            following: list[tuple[str, tuple[str, ...]]] = []
            for member, chain in level:
                for group in sorted(self._groups.get(member, ())):
                    known = self._principals.get(group)
                    if group not in found and known is not None and not known.disabled:
                        found[group] = (*chain, group)
                        following.append((group, found[group]))
            level = following
        return found

    def held(self, oid: str) -> Mapping[str, Sequence[Held]]:
        """Every assignment the principal has, its own and through groups, by folded scope."""
        known = self._held.get(oid)
        if known is None:
            known = self._held[oid] = self._collect(oid)
        return known

    def _collect(self, oid: str) -> Mapping[str, Sequence[Held]]:
        found: dict[str, list[Held]] = {}
        for holder, via in ((oid, ()), *self.groups_of(oid).items()):
            for assignment in sorted(self._of.get(holder, {}).values(), key=lambda a: (a.created_at, a.id)):
                role = self._roles.get(assignment.role)
                if role is not None:
                    found.setdefault(fold_scope(assignment.scope), []).append(Held(assignment, role, via))
        return found

    # Decisions.

    def allows(self, role: RoleDefinition, action: str, data: bool = False) -> bool:
        key = (role.id, action, data)
        answer = self._memo.get(key)
        if answer is None:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            answer = self._memo[key] = allows(role, action, data)
        return answer

    def decide(self, oid: str, action: str, scope: str, data: bool = False) -> Decision:
        """The widest assignment that allows it decides; nobody and disabled ones may nothing."""
        who = self._principals.get(oid)
        if who is None or who.disabled:
            state = "is disabled" if who is not None else "does not exist"
            return Decision(False, action, scope, f"The principal {who.name if who else oid!r} {state}.")
        held = self.held(oid)
        seen = 0
        for level in _levels(fold_scope(scope)):
            for one in held.get(level, ()):
                seen += 1
                if self.allows(one.role, action, data):
                    return Decision(
                        True, action, scope, self._why(who, one), one.assignment, one.role, one.via
                    )
        if seen:
            reason = f"None of the {seen} roles that {who.name!r} has at {scope} allows {action}."
            if seen == 1:
                reason = f"The one role that {who.name!r} has at {scope} does not allow {action}."
        else:
            reason = f"{who.name!r} has no role at {scope}."
        return Decision(False, action, scope, reason)

    def roles_allowing(self, action: str, data: bool = False) -> Sequence[str]:
        """The ids of roles that allow it."""
        return [role.id for role in self._roles.values() if self.allows(role, action, data)]

    def scopes_of(self, oid: str, action: str, below: str, data: bool = False) -> Sequence[str]:
        """Folded scopes strictly below `below` where the principal may do `action`: what a list shows to
        somebody who may not see all of it."""
        who = self._principals.get(oid)
        if who is None or who.disabled:
            return ()
        under = fold_scope(below)
        return sorted(
            scope
            for scope, held in self.held(oid).items()
            if scope != under
            and covers(under, scope)
            and any(self.allows(one.role, action, data) for one in held)
        )

    def holders_of(self, actions: Iterable[str], scope: str) -> Sequence[tuple[str, RoleAssignment]]:
        """Every enabled principal, groups opened, that may do one of `actions` at `scope`, with each
        assignment that says so: what a key that was handed out for it was made from."""
        wanted, at = tuple(actions), fold_scope(scope)
        found: list[tuple[str, RoleAssignment]] = []
        for assignment in self._assignments.values():
            role = self._roles.get(assignment.role)
            if role is None or not covers(fold_scope(assignment.scope), at):
                continue
            if any(self.allows(role, action) for action in wanted):
                found += [(oid, assignment) for oid in self._opened(assignment.principal)]
        return found

    def has(self, oid: str, assignment: str, scope: str) -> bool:
        """Whether the principal is enabled and still has that assignment, at `scope`, above or below it."""
        who, at = self._principals.get(oid), fold_scope(scope)
        if who is None or who.disabled:
            return False
        return any(
            one.assignment.id == assignment
            for where, held in self.held(oid).items()
            if covers(where, at) or covers(at, where)
            for one in held
        )

    def _opened(self, oid: str) -> Sequence[str]:
        """The principal, or everybody in the group, nested groups too; without disabled ones."""
        found: dict[str, None] = {}
        ahead, seen = [oid], {oid}
        while ahead:
            who = self._principals.get(ahead.pop())
            if who is None or who.disabled:
                continue
            if who.kind is not PrincipalKind.GROUP:
                found[who.oid] = None
                continue
            fresh = self._members.get(who.oid, frozenset()) - seen
            seen |= fresh
            ahead += fresh
        return tuple(found)

    def _why(self, who: Principal, held: Held) -> str:
        names = [self._principals[group].name for group in held.via]
        through = f", through group {' > '.join(names)}" if names else ""
        return f"{who.name!r} is {held.role.name} at {held.assignment.scope or '/'}{through}."


def _levels(folded: str) -> Sequence[str]:
    """The scope and all above it, widest first: "" (the root), "/subscriptions", "/subscriptions/s", …"""
    found = [""]
    at = folded.find("/", 1)
    while at > 0:
        found.append(folded[:at])
        at = folded.find("/", at + 1)
    if folded:
        found.append(folded)
    return found
