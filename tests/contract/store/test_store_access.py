"""Principals, groups, roles and assignments: memory, SQLite, PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rowmakers import OTHER, WS, job, uid

from tidemill.domain.model import Key, Resource, Scope, Touched
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import Permission, RoleAssignment, RoleDefinition
from tidemill.store.api import AlreadyExists, Granted, ResourceQuery, StaleRevision, Store, Tx

ANN = Principal("oid-a", PrincipalKind.USER, "Ann", "Ann Lee", created_at=1, created_by="owner")
APP = Principal("oid-p", PrincipalKind.SERVICE_PRINCIPAL, "ci", app_id="App-1", created_at=2)
CPU = "/subscriptions/s/resourceGroups/g/providers/M/workspaces/w/computes/CPU"
IDENTITY = Principal("oid-m", PrincipalKind.MANAGED_IDENTITY, "w/cpu", app_id="App-2", resource=CPU)
TEAM = Principal("oid-t", PrincipalKind.GROUP, "team")
OUTER = Principal("oid-o", PrincipalKind.GROUP, "outer")
ROLE = RoleDefinition(
    "r-1",
    "Submitter",
    (Permission(("a/*", "b"), ("a/x",), ("d/*",), ("d/ü",)), Permission(("c",))),
    "May submit.",
    ("/subscriptions/s",),
    created_at=3,
    created_by="owner",
    modified_at=4,
)
GIVEN = RoleAssignment("as-1", "/subscriptions/S/resourceGroups/G", ANN.oid, ROLE.id, "why", 5, "owner")


async def test_principals_come_back_and_are_found(store: Store) -> None:
    for one in (ANN, APP, IDENTITY, TEAM):
        assert await store.write(lambda tx, one=one: tx.insert_principal(one)) == one

    def look(r: Tx) -> None:
        assert r.principal(ANN.oid) == ANN
        assert r.principal_named("ANN") == ANN
        assert r.principal_of_app("APP-1") == APP
        assert r.principal_of_app("") is None
        assert r.principals_of_resource(CPU.upper() + "/") == (IDENTITY,)
        assert r.principals_of_resource("") == ()
        assert r.principals() == (ANN, APP, TEAM, IDENTITY)
        assert r.principals(PrincipalKind.GROUP) == (TEAM,)
        assert r.principal("nobody") is None
        assert r.principal_named("nobody") is None

    await store.read(look)


async def test_names_oids_and_client_ids_are_taken_once(store: Store) -> None:
    await store.write(lambda tx: [tx.insert_principal(ANN), tx.insert_principal(APP)])
    for same in (
        replace(ANN, name="other"),
        replace(ANN, oid="x", name="aNN"),
        replace(APP, oid="x", name="y", app_id="APP-1"),
    ):
        with pytest.raises(AlreadyExists):
            await store.write(lambda tx, same=same: tx.insert_principal(same))
    with pytest.raises(AlreadyExists):
        await store.write(lambda tx: tx.update_principal(replace(ANN, name="CI")))
    # Without a client id they do not collide.
    await store.write(lambda tx: tx.insert_principal(TEAM))


async def test_updates_compare_and_set(store: Store) -> None:
    await store.write(lambda tx: tx.insert_principal(ANN))
    changed = replace(ANN, name="ann2", display_name="A", disabled=True)
    stored = await store.write(lambda tx: tx.update_principal(changed))
    assert stored == replace(changed, revision=2)
    assert await store.read(lambda r: r.principal(ANN.oid)) == stored
    with pytest.raises(StaleRevision):
        await store.write(lambda tx: tx.update_principal(changed))
    with pytest.raises(StaleRevision):
        await store.write(lambda tx: tx.delete_principal(ANN))
    await store.write(lambda tx: tx.delete_principal(stored))
    assert await store.read(lambda r: r.principals()) == ()


async def test_members(store: Store) -> None:
    def fill(tx: Tx) -> list[bool]:
        for one in (ANN, APP, TEAM, OUTER):
            tx.insert_principal(one)
        pairs = [(TEAM, ANN), (TEAM, APP), (OUTER, TEAM), (TEAM, ANN)]
        return [tx.add_member(group.oid, member.oid) for group, member in pairs]

    assert await store.write(fill) == [True, True, True, False]
    assert await store.read(lambda r: r.members(TEAM.oid)) == (ANN.oid, APP.oid)
    assert await store.read(lambda r: r.groups_with(TEAM.oid)) == (OUTER.oid,)
    assert len(await store.read(lambda r: r.memberships())) == 3
    assert await store.write(lambda tx: tx.remove_member(TEAM.oid, APP.oid))
    assert not await store.write(lambda tx: tx.remove_member(TEAM.oid, APP.oid))
    await store.write(lambda tx: tx.delete_principal(TEAM))
    assert await store.read(lambda r: r.memberships()) == ()


async def test_roles(store: Store) -> None:
    assert await store.write(lambda tx: tx.insert_role_definition(ROLE)) == ROLE
    assert await store.read(lambda r: r.role_definition(ROLE.id)) == ROLE
    with pytest.raises(AlreadyExists):
        await store.write(lambda tx: tx.insert_role_definition(replace(ROLE, id="r-2", name="SUBMITTER")))
    changed = replace(ROLE, name="S2", permissions=(Permission(("z",)),), modified_at=9)
    stored = await store.write(lambda tx: tx.update_role_definition(changed))
    assert await store.read(lambda r: r.role_definitions()) == (stored,)
    assert stored.revision == 2
    await store.write(lambda tx: tx.insert_role_definition(replace(ROLE, id="r-2")))
    with pytest.raises(AlreadyExists):
        await store.write(lambda tx: tx.update_role_definition(replace(stored, name="submitter")))
    with pytest.raises(StaleRevision):
        await store.write(lambda tx: tx.delete_role_definition(ROLE))
    await store.write(lambda tx: tx.delete_role_definition(stored))
    assert [role.id for role in await store.read(lambda r: r.role_definitions())] == ["r-2"]


async def test_the_generation_moves_with_every_change_and_with_nothing_else(store: Store) -> None:
    seen = [await store.read(lambda r: r.access_generation())]
    for change in (
        lambda tx: tx.insert_principal(ANN),
        lambda tx: tx.add_member(TEAM.oid, ANN.oid),
        lambda tx: tx.insert_role_assignment(GIVEN),
        lambda tx: tx.delete_role_assignment(GIVEN.id),
    ):
        await store.write(change)
        seen.append(await store.read(lambda r: r.access_generation()))
    assert seen == sorted(set(seen))
    await store.write(lambda tx: tx.insert(job(1)))
    await store.write(lambda tx: tx.delete_role_assignment(GIVEN.id))
    assert await store.read(lambda r: r.access_generation()) == seen[-1]


async def test_assignments(store: Store) -> None:
    assert await store.write(lambda tx: tx.insert_role_assignment(GIVEN)) == GIVEN
    for same in (replace(GIVEN, role="r-9"), replace(GIVEN, id="as-2", scope=GIVEN.scope.lower() + "/")):
        with pytest.raises(AlreadyExists):
            await store.write(lambda tx, same=same: tx.insert_role_assignment(same))
    other = replace(GIVEN, id="as-0", role="r-2", created_at=6)
    await store.write(lambda tx: tx.insert_role_assignment(other))

    def look(r: Tx) -> None:
        assert r.role_assignment("as-1") == GIVEN
        assert r.role_assignment("as-9") is None
        assert r.role_assignments() == (GIVEN, other)
        assert r.role_assignments(principal=ANN.oid, role="r-2") == (other,)
        assert r.role_assignments(scope=GIVEN.scope.upper()) == (GIVEN, other)
        assert r.role_assignments(scope="/subscriptions/s") == ()

    await store.read(look)
    assert await store.write(lambda tx: tx.delete_role_assignment("as-1"))
    assert not await store.write(lambda tx: tx.delete_role_assignment("as-1"))


async def test_lists_of_what_was_granted(store: Store) -> None:
    """By own role or a group's, exactly at the row; whatever case the scope was written in."""

    def fill(tx: Tx) -> None:
        for number in range(8):
            tx.insert(job(number, state=("Queued", "Running")[number % 2], archived=number == 6))
        tx.insert(job(20, scope=OTHER))
        for number, (principal, role, scope) in enumerate(
            [
                ("me", "reads", f"{WS.arm_id.upper()}/JOBS/job-1"),
                ("team", "reads", f"{WS.arm_id}/jobs/Job-2"),
                ("me", "reads", f"{WS.arm_id}/jobs/Job-2"),
                ("me", "writes", f"{WS.arm_id}/jobs/Job-3"),
                ("you", "reads", f"{WS.arm_id}/jobs/Job-4"),
                ("me", "reads", f"{WS.arm_id}/jobs/Job-6"),
                ("me", "reads", f"{WS.arm_id}/jobs/gone"),
                ("me", "reads", f"{WS.arm_id}/computes/Job-5"),
                ("me", "reads", f"{WS.arm_id}2/jobs/Job-7"),
                ("me", "reads", f"{OTHER.arm_id}/jobs/Job-20"),
            ]
        ):
            tx.insert_role_assignment(RoleAssignment(f"g-{number}", scope, principal, role))

    await store.write(fill)
    mine = Granted(("me", "team"), ("reads", "owns"))

    async def names(**more: Any) -> list[str]:
        query = ResourceQuery("jobs", WS, granted=mine, **more)
        found = await store.read(lambda r: r.find(query))
        uids = [uid for uid, _ in await store.read(lambda r: r.revisions(query))]
        assert uids == [row.uid for row in found]
        assert more.get("limit") or await store.read(lambda r: r.count(query)) == len(found)
        return [row.key.name for row in found]

    assert await names() == ["Job-6", "Job-2", "Job-1"]
    assert await names(ascending=True, archived=False) == ["Job-1", "Job-2"]
    assert await names(limit=1, after=uid(6)) == ["Job-2"]
    assert await names(states=("Running",)) == ["Job-1"]
    assert await names(exclude_states=("Running",), archived=True) == ["Job-6"]
    assert await names(ref="cpu-CLUSTER", digest="d1") == ["Job-1"]


async def test_a_deleted_row_takes_its_assignments_along(store: Store) -> None:
    """A later row of the same name is somebody else's."""
    workspace = Resource(uid(50), Key(Scope("Sub-1", "RG-One"), "workspaces", "Main"), "Succeeded")
    version = Resource(uid(51), Key(WS, "models/versions", "3", parent="digits"))
    scopes = [
        "/subscriptions/Sub-1",
        f"{WS.arm_id}/jobs/JOB-1",
        f"{WS.arm_id}/jobs/Job-10",
        f"{WS.arm_id}/models/digits/versions/3",
        WS.arm_id,
        f"{WS.arm_id}2",
    ]

    def fill(tx: Tx) -> None:
        for row in (job(1), job(10), workspace, version):
            tx.insert(row)
        for number, scope in enumerate(scopes):
            tx.insert_role_assignment(replace(GIVEN, id=f"d-{number}", scope=scope))

    async def left() -> list[str]:
        return [a.id for a in await store.read(lambda r: r.role_assignments())]

    await store.write(fill)
    seen: list[Touched] = []
    store.on_commit(seen.extend)
    await store.write(lambda tx: tx.delete(job(1)))
    assert await left() == ["d-0", "d-2", "d-3", "d-4", "d-5"]
    assert Touched("role-assignment", "d-1") in seen
    await store.write(lambda tx: tx.delete(version))
    assert await left() == ["d-0", "d-2", "d-4", "d-5"]
    await store.write(lambda tx: tx.delete(workspace))
    assert await left() == ["d-0", "d-5"]


async def test_commits_say_what_they_touched_and_a_closure_is_undone(store: Store) -> None:
    seen: list[Touched] = []
    store.on_commit(seen.extend)

    def fill(tx: Tx) -> None:
        tx.insert_principal(ANN)
        tx.insert_principal(TEAM)
        tx.add_member(TEAM.oid, ANN.oid)
        tx.insert_role_definition(ROLE)
        tx.insert_role_assignment(GIVEN)

    def fail(tx: Tx) -> None:
        tx.delete_role_assignment(GIVEN.id)
        tx.delete_principal(ANN)
        tx.insert_principal(APP)
        raise RuntimeError

    await store.write(fill)
    kinds = {"principal": {ANN.oid, TEAM.oid}, "group": {TEAM.oid}}
    kinds |= {"role-definition": {ROLE.id}, "role-assignment": {GIVEN.id}}
    assert {kind: {t.uid for t in seen if t.kind == kind} for kind in kinds} == kinds
    seen.clear()
    with pytest.raises(RuntimeError):
        await store.write(fail)
    assert seen == []
    assert await store.read(lambda r: (r.members(TEAM.oid), r.role_assignments())) == ((ANN.oid,), (GIVEN,))
    await store.write(lambda tx: tx.delete_principal(ANN))
    assert Touched("group", TEAM.oid) in seen
