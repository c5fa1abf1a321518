"""People, groups and programs: made, changed, removed. The last owner stays."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tidemill.app.errors import absent
from tidemill.app.rows import quota_rows
from tidemill.app.services import Caller, Services
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.model import Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import OWNER_ROLE, RoleAssignment, fold_scope
from tidemill.store.api import AlreadyExists, Read, Tx

T = TypeVar("T")

OWNER_MADE = "access.owner"  # set by the first start: later ones do not bring a removed owner back
_MAX_NAME = 256


async def ensure_owner(services: Services, oid: str, name: str, app_id: str) -> None:
    """At the first start: the home's owner as a principal, Owner of the whole subscription."""
    now, subscription = services.clock.now(), services.settings.subscription
    assignment = RoleAssignment(
        _guid(services), Scope(subscription).arm_id, oid, OWNER_ROLE, "The owner of this home.", now, "system"
    )

    def make(tx: Tx) -> None:
        if tx.meta(OWNER_MADE) is not None:
            return
        tx.insert_principal(
            Principal(oid, PrincipalKind.USER, name, app_id=app_id, created_at=now, created_by="system")
        )
        tx.insert_role_assignment(assignment)
        tx.set_meta(OWNER_MADE, oid.encode())

    if await services.store.read(lambda r: r.meta(OWNER_MADE)) is None:
        await services.store.write(make)


async def create(
    services: Services,
    caller: Caller,
    kind: PrincipalKind,
    name: str,
    *,
    display_name: str = "",
    app_id: str = "",
    resource: str = "",
) -> Principal:
    """A new principal without any role. A program gets a client id. Raises InvalidRequest for a name that is
    none, Conflict for one that is taken."""
    if kind in (PrincipalKind.SERVICE_PRINCIPAL, PrincipalKind.MANAGED_IDENTITY):
        app_id = app_id or _guid(services)
    made = Principal(
        _guid(services),
        kind,
        check_principal_name(name),
        display_name,
        app_id,
        resource,
        created_at=services.clock.now(),
        created_by=caller.name,
    )
    try:
        return await services.store.write(lambda tx: tx.insert_principal(made))
    except AlreadyExists:
        raise Conflict(
            f"There is a principal {name!r} already; names are unique over users, groups and programs.",
            "PrincipalExists",
            name,
        ) from None


def check_principal_name(name: str) -> str:
    if not name.strip() or name != name.strip() or len(name) > _MAX_NAME or not name.isprintable():
        raise InvalidRequest(
            f"{name[:80]!r} is no name of a principal: use 1 to {_MAX_NAME} printable characters, without "
            "spaces at its ends.",
            "InvalidName",
            "name",
        )
    return name


def require(read: Read, who: str) -> Principal:
    """By oid, name or client id. Raises NotFound naming near ones."""
    found = read.principal(who) or read.principal_named(who) or read.principal_of_app(who)
    if found is None:
        raise absent("Principal", who, [p.name for p in read.principals()], "this home")
    return found


def require_group(read: Read, name: str) -> Principal:
    group = require(read, name)
    if group.kind is not PrincipalKind.GROUP:
        raise InvalidRequest(f"{group.name!r} is a {group.kind.value}, not a group.", target=name)
    return group


async def change(
    services: Services, who: str, *, disabled: bool | None = None, display_name: str | None = None
) -> Principal:
    """Whoever is disabled is signed out everywhere. Raises NotFound; Conflict where nobody would be left as
    owner."""
    now = services.clock.now()

    def apply(tx: Tx) -> Principal:
        held = require(tx, who)
        wanted = replace(
            held,
            disabled=held.disabled if disabled is None else disabled,
            display_name=held.display_name if display_name is None else display_name,
        )
        if wanted.disabled:
            tx.end_sessions(held.oid, now, "the principal was disabled")
        return held if wanted == held else tx.update_principal(wanted)

    return await _keeping_an_owner(services, apply)


async def delete(services: Services, who: str) -> Principal:
    """With its assignments, memberships, quotas, credentials and sessions. Its tokens are dead at once."""

    def apply(tx: Tx) -> Principal:
        held = require(tx, who)
        for assignment in tx.role_assignments(principal=held.oid):
            tx.delete_role_assignment(assignment.id)
        tx.forget_sign_ins(held.oid)
        quota_rows.forget(tx, services.settings.subscription, held.oid)
        tx.delete_principal(held)
        return held

    return await _keeping_an_owner(services, apply)


async def add_member(services: Services, group: str, member: str) -> bool:
    """False if it was there. Raises Conflict for a group that would contain itself."""

    def apply(tx: Tx) -> bool:
        outer, inner = require_group(tx, group), require(tx, member)
        if inner.kind is PrincipalKind.GROUP and outer.oid in _everything_in(tx, inner.oid, disabled=True):
            raise Conflict(
                f"Group {outer.name!r} is {inner.name!r} or in it: a group cannot contain itself.",
                "GroupCycle",
                member,
            )
        return tx.add_member(outer.oid, inner.oid)

    return await services.store.write(apply)


async def remove_member(services: Services, group: str, member: str) -> bool:
    """False if it was not there. Raises Conflict where nobody would be left as owner."""

    def apply(tx: Tx) -> bool:
        return tx.remove_member(require_group(tx, group).oid, require(tx, member).oid)

    return await _keeping_an_owner(services, apply)


async def remove_assignment(services: Services, id: str) -> RoleAssignment:
    """Raises NotFound; Conflict for the last owner's."""

    def apply(tx: Tx) -> RoleAssignment:
        held = tx.role_assignment(id)
        if held is None:
            raise NotFound(f"There is no role assignment {id!r}.", "RoleAssignmentNotFound", id)
        tx.delete_role_assignment(id)
        return held

    return await _keeping_an_owner(services, apply)


async def _keeping_an_owner(services: Services, apply: Callable[[Tx], T]) -> T:
    """Makes a change that takes something away, unless it took the last owner."""
    subscription = Scope(services.settings.subscription).arm_id

    def checked(tx: Tx) -> T:
        before = owners(tx, subscription)
        result = apply(tx)
        if before and not owners(tx, subscription):
            names = ", ".join(sorted(p.name for p in before))
            raise Conflict(
                f"This would leave the subscription without an owner ({names} is the last). Make somebody "
                "else an owner first: tidemill access grant WHO Owner --scope subscription",
                "LastOwner",
            )
        return result

    return await services.store.write(checked)


def owners(read: Read, subscription: str) -> list[Principal]:
    """Enabled people and programs that are Owner of the whole subscription, themselves or through groups. A
    compute's identity does not count: nobody signs in with it."""
    found: dict[str, Principal] = {}
    for assignment in read.role_assignments(role=OWNER_ROLE):
        if fold_scope(assignment.scope) not in ("", fold_scope(subscription)):
            continue
        for oid in _everything_in(read, assignment.principal):
            who = read.principal(oid)
            if who is not None and who.kind in (PrincipalKind.USER, PrincipalKind.SERVICE_PRINCIPAL):
                found[oid] = who
    return [who for who in found.values() if not who.disabled]


def _everything_in(read: Read, oid: str, *, disabled: bool = False) -> set[str]:
    """The principal and, of a group, all in it, nested ones too. Disabled groups give nothing."""
    found: set[str] = set()
    ahead = [oid]
    while ahead:
        one = ahead.pop()
        who = read.principal(one)
        if one in found or who is None:
            continue
        found.add(one)
        if who.kind is PrincipalKind.GROUP and (disabled or not who.disabled):
            ahead += read.members(one)
    return found


def _guid(services: Services) -> str:
    return str(uuid.UUID(services.ids.uid()))
