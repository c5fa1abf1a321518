"""The gate: who may do what, at once after every change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tidemill.app.people import access, principals, roles
from tidemill.app.people.roles import Place
from tidemill.app.services import Caller, Services
from tidemill.app.views import access_views
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, Unauthenticated
from tidemill.domain.model import Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import OWNER_ROLE, Permission, RoleAssignment

ML = "Microsoft.MachineLearningServices/workspaces/"
READER = "acdd72a7-3385-48ef-bd42-f606fba81ae7"


async def person(services: Services, name: str, kind: PrincipalKind = PrincipalKind.USER) -> Principal:
    return await principals.create(services, Caller("o", "owner", "User"), kind, name)


async def give(services: Services, who: Principal, role: str, scope: str) -> RoleAssignment:
    made = RoleAssignment(services.ids.uid(), scope, who.oid, role)
    return await services.store.write(lambda tx: tx.insert_role_assignment(made))


def as_caller(who: Principal) -> Caller:
    return Caller(who.oid, who.name, who.kind.value, principal=who)


async def may(services: Services, caller: Caller, action: str, scope: Scope, below: str = "") -> bool:
    return (await access.decide(services, caller, ML + action, scope, below)).allowed


async def test_the_owner_may_everything_and_the_decision_says_by_what(services, owner, scope):
    decision = await access.authorise(services, owner, ML + "delete", scope)
    assert decision.assignment is not None
    assert (decision.assignment.principal, decision.assignment.role) == (owner.oid, OWNER_ROLE)
    assert decision.assignment.scope == f"/subscriptions/{scope.subscription}"
    assert decision.reason.startswith("'owner' is Owner at /subscriptions/")


async def test_a_second_start_changes_nothing(services, owner, scope):
    await principals.ensure_owner(services, owner.oid, owner.name, "app")
    ann = await person(services, "ann")
    await give(services, ann, OWNER_ROLE, f"/subscriptions/{scope.subscription}")
    await principals.delete(services, owner.oid)
    await principals.ensure_owner(services, owner.oid, owner.name, "app")
    assert not await may(services, owner, "read", scope)


async def test_a_role_counts_at_once_and_only_where_it_is(services, scope):
    ann = await person(services, "ann")
    caller = as_caller(ann)
    with pytest.raises(access.AccessDenied, match="does not have authorization") as caught:
        await access.authorise(services, caller, ML + "read", scope)
    assert (caught.value.status, caught.value.code) == (403, "AuthorizationFailed")
    assert ML + "read" in caught.value.message
    assert "'ann' has no role at" in caught.value.message
    assert not caught.value.decision.allowed
    given = await give(services, ann, READER, scope.arm_id)
    assert await may(services, caller, "jobs/read", Scope(scope.subscription, "TIDEMILL", "Main"))
    assert not await may(services, caller, "jobs/write", scope)
    assert not await may(services, caller, "read", Scope(scope.subscription, scope.group))
    assert not await may(services, caller, "read", Scope(scope.subscription, scope.group, "main2"))
    await services.store.write(lambda tx: tx.delete_role_assignment(given.id))
    assert not await may(services, caller, "jobs/read", scope)


async def test_a_role_at_a_single_resource(services, scope):
    ann = await person(services, "ann")
    await give(services, ann, READER, f"{scope.arm_id}/jobs/j1")
    assert await may(services, as_caller(ann), "jobs/read", scope, "jobs/J1")
    assert not await may(services, as_caller(ann), "jobs/read", scope, "jobs/j12")
    assert not await may(services, as_caller(ann), "jobs/read", scope)


async def test_groups_inside_groups(services, scope):
    ann, inner = await person(services, "ann"), await person(services, "inner", PrincipalKind.GROUP)
    outer = await person(services, "outer", PrincipalKind.GROUP)
    await give(services, outer, READER, scope.arm_id)
    await principals.add_member(services, "inner", "ann")
    await principals.add_member(services, "outer", "inner")
    decision = await access.authorise(services, as_caller(ann), ML + "read", scope)
    assert decision.via == (inner.oid, outer.oid)
    with pytest.raises(Conflict, match="cannot contain itself"):
        await principals.add_member(services, "inner", "outer")
    with pytest.raises(Conflict, match="cannot contain itself"):
        await principals.add_member(services, "inner", "INNER")
    with pytest.raises(InvalidRequest, match="not a group"):
        await principals.add_member(services, "ann", "inner")
    with pytest.raises(NotFound, match="Did you mean 'inner'"):
        await principals.add_member(services, "iner", "ann")
    assert (await access_views.person(services, "inner"))["members"] == ["ann"]
    assert await principals.remove_member(services, "inner", "ann")
    assert not await may(services, as_caller(ann), "read", scope)


async def test_the_last_owner_stays(services, owner, scope):
    (assignment,) = await services.store.read(lambda r: r.role_assignments(principal=owner.oid))
    for attempt in (
        principals.remove_assignment(services, assignment.id),
        principals.delete(services, owner.oid),
        principals.change(services, owner.oid, disabled=True),
    ):
        with pytest.raises(Conflict, match="without an owner") as caught:
            await attempt
        assert caught.value.code == "LastOwner"
    assert await may(services, owner, "delete", scope)
    team = await person(services, "team", PrincipalKind.GROUP)
    await give(services, team, OWNER_ROLE, f"/subscriptions/{scope.subscription}")
    with pytest.raises(Conflict):  # an empty group owns nothing
        await principals.remove_assignment(services, assignment.id)
    await person(services, "bob")
    await principals.add_member(services, "team", "bob")
    await principals.remove_assignment(services, assignment.id)
    with pytest.raises(Conflict):
        await principals.remove_member(services, "team", "bob")
    with pytest.raises(Conflict):
        await principals.change(services, "team", disabled=True)
    identity = await person(services, "cpu", PrincipalKind.MANAGED_IDENTITY)
    await give(services, identity, OWNER_ROLE, f"/subscriptions/{scope.subscription}")
    with pytest.raises(Conflict):  # nobody signs in as a compute
        await principals.delete(services, "bob")


async def test_tokens_of_the_disabled_and_the_deleted_are_dead(services):
    ann = await person(services, "ann")
    verified = SimpleNamespace(verify=lambda token: Caller(ann.oid, "old name", "User"))
    object.__setattr__(services, "tokens", verified)
    caller = await access.authenticate(services, "t")
    assert (caller.name, caller.kind, caller.principal) == ("ann", "User", ann)
    await principals.change(services, "ann", disabled=True)
    with pytest.raises(Unauthenticated, match="'ann' is disabled"):
        await access.authenticate(services, "t")
    await principals.change(services, "ann", disabled=False)
    await access.authenticate(services, "t")
    await principals.delete(services, "ann")
    with pytest.raises(Unauthenticated, match="does not exist here any more"):
        await access.authenticate(services, "t")


async def test_names_of_principals(services):
    await person(services, "ann@example.org")
    with pytest.raises(Conflict, match="already"):
        await person(services, "ANN@example.org", PrincipalKind.GROUP)
    for name in ("", " a", "a\n", "x" * 300):
        with pytest.raises(InvalidRequest, match="no name"):
            await person(services, name)
    program = await person(services, "ci", PrincipalKind.SERVICE_PRINCIPAL)
    assert program.app_id not in ("", program.oid)


MAIN = Scope("11111111-1111-1111-1111-111111111111", "tidemill", "main")
JOB = Caller("j", "job", "job", MAIN, "job")


@pytest.mark.parametrize(
    ("caller", "action", "scope", "yes"),
    [
        (JOB, "read", MAIN, True),
        (JOB, "experiments/runs/write", Scope(MAIN.subscription, "TIDEMILL", "Main"), True),
        (JOB, "models/versions/write", MAIN, True),
        (JOB, "data/versions/write", MAIN, True),
        (JOB, "jobs/read", MAIN, True),
        (JOB, "experiments/runs/write", Scope(MAIN.subscription, "tidemill", "other"), False),
        (JOB, "experiments/runs/write", Scope(MAIN.subscription, "tidemill"), False),
        (JOB, "jobs/write", MAIN, False),
        (JOB, "jobs/cancel/action", MAIN, False),
        (JOB, "computes/write", MAIN, False),
        (JOB, "datastores/listSecrets/action", MAIN, False),
        (JOB, "listKeys/action", MAIN, False),
        (Caller("x", "x", "User"), "read", MAIN, False),
        (Caller("x", "x", "job"), "read", MAIN, False),
    ],
)
async def test_what_a_jobs_token_may(
    services: Services, caller: Caller, action: str, scope: Scope, yes: bool
):
    assert await may(services, caller, action, scope) is yes


async def test_a_job_that_acts_for_somebody_has_their_roles_besides(services, scope):
    ann = await person(services, "ann")
    given = await give(services, ann, "b24988ac-6180-42a0-ab88-20f7382dd24c", scope.arm_id)
    job = Caller("j", "job", "job", MAIN, "job", acts_as=ann.oid)
    decision = await access.authorise(services, job, ML + "computes/write", scope)
    assert decision.assignment == given
    assert await may(services, job, "experiments/runs/write", scope)
    await services.store.write(lambda tx: tx.delete_role_assignment(given.id))
    assert not await may(services, job, "computes/write", scope)
    assert await may(services, job, "experiments/runs/write", scope)


async def test_public_and_signed_in(services: Any, scope):
    nobody = Caller("", "anonymous", "anonymous")
    assert (await access.decide(services, nobody, access.PUBLIC, scope)).allowed
    assert (await access.decide(services, nobody, access.SIGNED_IN, scope)).assignment is None


OTHER = Scope("11111111-1111-1111-1111-111111111111", "tidemill", "other")
ROLE_ID = "0b5f7e6a-0000-4000-8000-000000000001"


def draft(name: str, *scopes: str) -> roles.RoleDraft:
    return roles.RoleDraft(name, (Permission(("*/read",)),), scopes)


async def test_a_role_is_shown_where_it_can_be_given(services, owner, scope):
    await roles.define(services, owner, ROLE_ID, draft("Secret Project", OTHER.arm_id))
    for place in (Place(OTHER), Place(Scope(OTHER.subscription))):
        assert (await roles.definition(services, place, ROLE_ID)).name == "Secret Project"
    with pytest.raises(NotFound):
        await roles.definition(services, Place(scope), ROLE_ID)
    assert (await roles.definition(services, Place(scope), OWNER_ROLE)).name == "Owner"


async def test_a_role_that_was_widened_meanwhile_is_not_written_over(services, owner, scope, monkeypatch):
    """Whoever may change roles of one workspace must not change one of the whole subscription, however close
    the two come."""
    await roles.define(services, owner, ROLE_ID, draft("mine", scope.arm_id))
    ann = await person(services, "ann")
    await give(services, ann, OWNER_ROLE, scope.arm_id)
    real = access.authorise
    subscription = Scope(scope.subscription).arm_id

    async def widened_after_the_check(s, caller, *rest, **more):
        decision = await real(s, caller, *rest, **more)
        monkeypatch.setattr(access, "authorise", real)
        await roles.define(s, owner, ROLE_ID, draft("everybody's", subscription))
        return decision

    monkeypatch.setattr(access, "authorise", widened_after_the_check)
    with pytest.raises(Conflict):
        await roles.define(services, as_caller(ann), ROLE_ID, draft("mine again", scope.arm_id))
    assert (await roles.definition(services, Place(scope), ROLE_ID)).name == "everybody's"
