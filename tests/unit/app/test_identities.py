"""Identities of computes, and what jobs run as."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.app.computes import computes, identities
from tidemill.app.people import access, principals
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Caller, Services
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.jobspec import read_command_job
from tidemill.domain.principals import PrincipalKind
from tidemill.domain.roles import RoleAssignment

OPERATOR = "e503ece1-11d0-4e8e-8e2c-7a6c3bf38815"  # AzureML Compute Operator
READER = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
GROUP = "/subscriptions/x/resourceGroups/y/providers/Microsoft.ManagedIdentity/userAssignedIdentities"


async def put(
    s: Services, caller: Caller, scope: Any, identity: Any = None, name: str = "cpu"
) -> dict[str, Any]:
    inner = {"vmSize": "Standard_DS1_v2", "scaleSettings": {"maxNodeCount": 1}}
    body: dict[str, Any] = {"properties": {"computeType": "AmlCompute", "properties": inner}}
    if identity is not None:
        body["identity"] = identity
    row, _ = await computes.put(s, caller, scope, name, body)
    return decode_object(row.status).get("identity") or {}


async def acts_as(s: Services, caller: Caller, identity: dict[str, Any]) -> str:
    job = read_command_job("j", {"command": "true", "identity": identity})
    scope = await s.store.read(lambda r: next(iter(r.find(_computes()))))
    return await s.store.read(lambda r: identities.acts_as(s, r, caller, job, scope.uid, "cpu"))


def _computes() -> Any:
    from tidemill.store.api import ResourceQuery

    return ResourceQuery("computes")


async def test_a_system_assigned_identity_lives_and_goes_with_its_compute(services, scope, owner):
    identity = await put(services, owner, scope, {"type": "SystemAssigned"})
    assert identity["type"] == "SystemAssigned"
    who = await services.store.read(lambda r: r.principal(identity["principalId"]))
    assert (who.kind, who.name) == (PrincipalKind.MANAGED_IDENTITY, "tidemill/main/cpu")
    assert (await put(services, owner, scope, {"type": "system_assigned"}))["principalId"] == who.oid
    assert (await put(services, owner, scope))["principalId"] == who.oid  # a body without one changes none
    given = RoleAssignment("1", scope.arm_id, who.oid, READER)
    await services.store.write(lambda tx: tx.insert_role_assignment(given))
    assert await acts_as(services, owner, {"identityType": "Managed"}) == who.oid
    await computes.delete(services, owner, scope, "cpu")
    assert await services.store.read(lambda r: r.principal(who.oid)) is None
    assert await services.store.read(lambda r: r.role_assignment("1")) is None
    again = await put(services, owner, scope, {"type": "SystemAssigned"})
    assert again["principalId"] != who.oid
    assert (await put(services, owner, scope, {"type": "None"}))["type"] == "None"
    assert await services.store.read(lambda r: r.principals(PrincipalKind.MANAGED_IDENTITY)) == ()


async def test_user_assigned_identities_are_given_away_only_by_who_may(services, scope, owner):
    with pytest.raises(InvalidRequest, match="create-principal train --managed-identity"):
        await put(
            services, owner, scope, {"type": "UserAssigned", "userAssignedIdentities": {f"{GROUP}/train": {}}}
        )
    kind = PrincipalKind.MANAGED_IDENTITY
    train, serve = [await principals.create(services, owner, kind, name) for name in ("train", "serve")]
    one = {"type": "UserAssigned", "userAssignedIdentities": {f"{GROUP}/train": {}}}
    ann = await principals.create(services, owner, PrincipalKind.USER, "ann")
    operator = Caller(ann.oid, "ann", "User", principal=ann)
    await services.store.write(
        lambda tx: tx.insert_role_assignment(RoleAssignment("2", scope.arm_id, ann.oid, OPERATOR))
    )
    with pytest.raises(access.AccessDenied, match="assign/action"):
        await put(services, operator, scope, one)
    shown = await put(services, owner, scope, one)
    ((id, entry),) = shown["userAssignedIdentities"].items()
    assert id.endswith("/Microsoft.ManagedIdentity/userAssignedIdentities/train")
    assert entry == {"principalId": train.oid, "clientId": train.app_id}
    assert await put(services, operator, scope, shown) == shown  # what was there already stays
    two = {"type": "SystemAssigned,UserAssigned", "userAssignedIdentities": {id: {}, f"{GROUP}/serve": {}}}
    with pytest.raises(access.AccessDenied):
        await put(services, operator, scope, two)
    shown = await put(services, owner, scope, two)
    assert await acts_as(services, owner, {"identityType": "Managed"}) == shown["principalId"]
    for chosen in (
        {"clientId": serve.app_id},
        {"objectId": serve.oid.upper()},
        {"resourceId": f"{GROUP}/serve"},
    ):
        assert await acts_as(services, owner, {"identityType": "Managed", **chosen}) == serve.oid
    with pytest.raises(InvalidRequest, match="name one of them with client_id"):
        await acts_as(services, owner, {"identityType": "Managed", "clientId": "other"})


async def test_what_a_job_runs_as(services, scope, owner):
    await put(services, owner, scope)
    assert await acts_as(services, owner, {}) == ""
    assert await acts_as(services, owner, {"identityType": "AMLToken"}) == ""
    assert await acts_as(services, owner, {"identityType": "UserIdentity"}) == owner.oid
    job = Caller("j", "job", "job", scope, "job")
    with pytest.raises(InvalidRequest, match="acts for nobody"):
        await acts_as(services, job, {"identityType": "UserIdentity"})
    job = Caller("j", "job", "job", scope, "job", acts_as=owner.oid)
    assert await acts_as(services, job, {"identityType": "UserIdentity"}) == owner.oid
    with pytest.raises(InvalidRequest, match="Compute 'cpu' has no managed identity"):
        await acts_as(services, owner, {"identityType": "Managed"})
    with pytest.raises(InvalidRequest, match="'Robot' is not known"):
        await acts_as(services, owner, {"identityType": "Robot"})
    for wrong in ({"type": "Mine"}, {"type": "UserAssigned"}, "x"):
        with pytest.raises(InvalidRequest, match="identity"):
            await put(services, owner, scope, wrong)


async def test_borrowed_rights_lift_what_holds_for_a_jobs_own(services, scope, owner):
    runs = "Microsoft.MachineLearningServices/workspaces/experiments/runs/write"
    own = Caller("j", "job", "job", scope, "job")
    assert access.as_decided(own, await access.authorise(services, own, runs, scope)).only_own
    borrowing = Caller("j", "job", "job", scope, "job", acts_as=owner.oid)
    decided = access.as_decided(borrowing, await access.authorise(services, borrowing, runs, scope))
    assert not decided.only_own
    poor = await principals.create(services, owner, PrincipalKind.MANAGED_IDENTITY, "poor")
    borrowing = Caller("j", "job", "job", scope, "job", acts_as=poor.oid)
    assert access.as_decided(borrowing, await access.authorise(services, borrowing, runs, scope)).only_own
