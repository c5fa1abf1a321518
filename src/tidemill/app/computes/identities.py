"""Identities of computes, and what a job runs as: `aml_token` (the job's own rights), `user_identity` (with
its submitter's roles besides) or `managed` (with those of an identity of its compute).

A system-assigned identity is a principal that is made and goes with its compute. A user-assigned one is made
by `tidemill access create-principal NAME --managed-identity` and named at the compute by its ARM id.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tidemill.app.computes.compute_rules import SERVERLESS
from tidemill.app.people import access
from tidemill.app.people.access import JOB
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Caller, Services
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import resource_id
from tidemill.domain.jobspec import MANAGED, USER_IDENTITY, CommandJob
from tidemill.domain.model import Key, Resource, Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.store.api import Read, Tx

ASSIGN = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"
_TYPE = "Microsoft.ManagedIdentity/userAssignedIdentities"


@dataclass(frozen=True, slots=True)
class ComputeIdentity:
    """What ARM's `identity` of a compute asks for."""

    system: bool = False
    assigned: tuple[Principal, ...] = ()


async def asked_for(s: Services, caller: Caller, body: Mapping[str, Any], key: Key) -> ComputeIdentity | None:
    """ARM's `identity` for the compute of `key`; None where the body has none. Raises InvalidRequest for
    identities that do not exist, AccessDenied where the caller may not give away what is new there."""
    raw = body.get("identity")
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        raise InvalidRequest("'identity' must be an object with a 'type'.", target="identity")
    identity = cast(Mapping[str, Any], raw)
    parts = str(identity.get("type") or "None").split(",")
    kinds = {part.strip().casefold().replace("_", "") for part in parts}
    unknown = kinds - {"systemassigned", "userassigned", "none"}
    if unknown:
        raise InvalidRequest(
            f"identity.type {identity.get('type')!r} is not known. Use SystemAssigned, UserAssigned, both "
            "joined by a comma, or None.",
            target="identity.type",
        )
    named: Any = identity.get("userAssignedIdentities")
    ids = [str(id) for id in cast(Mapping[str, Any], named)] if isinstance(named, Mapping) else []
    if "userassigned" not in kinds:
        return ComputeIdentity("systemassigned" in kinds)
    if not ids:
        raise InvalidRequest(
            "identity.type is UserAssigned, but identity.userAssignedIdentities names none.",
            target="identity.userAssignedIdentities",
        )
    found = await s.store.read(lambda read: tuple(_user_assigned(read, id) for id in ids))
    there = await s.store.read(lambda read: _known(read, _identity_of(read.get(key))))
    if any(who not in there for who in found):
        # Whoever submits to the compute can act as it: giving it away is a right of its own, as in Azure.
        await access.authorise(s, caller, ASSIGN, Scope(s.settings.subscription))
    return ComputeIdentity("systemassigned" in kinds, found)


def _user_assigned(read: Read, id: str) -> Principal:
    name = id.rstrip("/").rsplit("/", 1)[-1]
    who = read.principal_named(name) or read.principal_of_app(name)
    if who is None or who.kind is not PrincipalKind.MANAGED_IDENTITY or who.resource:
        raise InvalidRequest(
            f"There is no user-assigned identity {name!r} ({id}). Make one with: "
            f"tidemill access create-principal {name} --managed-identity",
            "IdentityNotFound",
            "identity.userAssignedIdentities",
        )
    return who


def settle(
    tx: Tx, key: Key, wanted: ComputeIdentity, *, oid: str, tenant: str, now: int, by: str
) -> dict[str, Any]:
    """Makes or removes the compute's own identity (with its roles) as wanted. `oid`: of a new one.
    -> ARM's `identity` with what it turned out to be."""
    resource = resource_id(key)
    held = tx.principals_of_resource(resource)
    own = held[0] if held else None
    if own is None and wanted.system:
        name = f"{key.scope.group}/{key.scope.workspace}/{key.name}"
        if tx.principal_named(name) is not None:
            name = f"{name}-{oid[:8]}"
        made = Principal(oid, PrincipalKind.MANAGED_IDENTITY, name, "", oid, resource, False, now, by)
        own = tx.insert_principal(made)
    elif own is not None and not wanted.system:
        tx.drop_principals_of(resource)
        own = None
    kinds = ["SystemAssigned"] * (own is not None) + ["UserAssigned"] * bool(wanted.assigned)
    shown: dict[str, Any] = {"type": ",".join(kinds) or "None"}
    if own is not None:
        shown |= {"principalId": own.oid, "tenantId": tenant}
    if wanted.assigned:
        scope = Scope(key.scope.subscription, key.scope.group).arm_id
        shown["userAssignedIdentities"] = {
            f"{scope}/providers/{_TYPE}/{who.name}": {"principalId": who.oid, "clientId": who.app_id}
            for who in wanted.assigned
        }
    return shown


def new_oid(s: Services) -> str:
    return str(uuid.UUID(s.ids.uid()))


def acts_as(s: Services, read: Read, caller: Caller, job: CommandJob, compute_uid: str, compute: str) -> str:
    """The oid of the principal whose roles a job has besides its own; "" for none. Raises InvalidRequest for
    an identity that its compute does not have."""
    if job.identity.kind == USER_IDENTITY:
        oid = caller.acts_as if caller.kind == JOB else caller.oid
        if not oid:
            raise InvalidRequest(
                f"Job {caller.job!r} acts for nobody, so a job that it submits cannot run with a user's "
                "identity. Use aml_token.",
                target="properties.identity",
            )
        return oid
    if job.identity.kind != MANAGED:
        return ""
    known = _known(read, _identity_of(read.by_uid(compute_uid)))
    wanted = (job.identity.client_id, job.identity.object_id, job.identity.resource_id)
    chosen = [who for who in known if _is(who, wanted)] if any(wanted) else known
    if len(chosen) == 1:
        return chosen[0].oid
    own = [who for who in chosen if who.resource]
    if own:
        return own[0].oid  # none was named: the compute's own
    names = ", ".join(f"{who.name} (client id {who.app_id})" for who in known)
    where = "A job without a compute" if compute == SERVERLESS else f"Compute {compute!r}"
    raise InvalidRequest(
        f"{where} has no managed identity to run as. Name a cluster that has one (identity: type: "
        "system_assigned), use user_identity, or leave the job's identity out."
        if not known
        else f"{where} has the identities {names}: name one of them with client_id.",
        "IdentityNotFound",
        "properties.identity",
    )


def _identity_of(compute: Resource | None) -> Mapping[str, Any]:
    found: Any = decode_object(compute.status).get("identity") if compute is not None else None
    return cast(Mapping[str, Any], found) if isinstance(found, Mapping) else {}


def _known(read: Read, identity: Mapping[str, Any]) -> list[Principal]:
    named: Mapping[str, Any] = identity.get("userAssignedIdentities") or {}
    oids = [identity.get("principalId"), *(entry.get("principalId") for entry in named.values())]
    found = (read.principal(str(oid)) for oid in oids if oid)
    return [who for who in found if who is not None]


def _is(who: Principal, wanted: tuple[str, str, str]) -> bool:
    client, oid, resource = (text.casefold() for text in wanted)
    return (
        (not client or who.app_id.casefold() == client)
        and (not oid or who.oid.casefold() == oid)
        and (not resource or who.name.casefold() == resource.rstrip("/").rsplit("/", 1)[-1])
    )
