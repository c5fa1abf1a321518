"""ARM's rules about roles, against a naive reading of them."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.catalog.roles import JOB_ROLE, builtin_roles
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import (
    AccessIndex,
    Permission,
    RoleAssignment,
    RoleDefinition,
    allows,
    covers,
    fold_scope,
    matches,
)

ML = "Microsoft.MachineLearningServices/workspaces/"
ROLES = {role.name: role for role in builtin_roles()}


@pytest.mark.parametrize(
    ("pattern", "action", "yes"),
    [
        ("*", "anything/at/all", True),
        ("*/read", "A/b/READ", True),
        ("*/read", "a/b/write", False),
        ("a/b/read", "A/B/Read", True),
        ("a/b/read", "a/b/read/x", False),
        ("a/*/read", "a/b/c/read", True),
        ("a/*/read", "a/read", True),  # no segment at all
        ("a/*/read", "aread", False),
        ("a/*/read", "a/xread", False),
        ("a/*", "a/", True),
        ("a/*", "a", False),
        ("a/ke*/x", "a/keys/x", True),
        ("*key*", "a/listKeys/action", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("/*/*/", "/", True),
        ("", "a", False),
    ],
)
def test_patterns(pattern: str, action: str, yes: bool) -> None:
    assert matches(pattern, action) is yes


def test_a_pattern_of_many_stars_is_quick() -> None:
    assert not matches("*a" * 200 + "b", "a" * 5000)


def _by_hand(pattern: str, action: str) -> bool:
    expression = re.escape(pattern.lower()).replace(r"/\*/", "/(?:.*/)?").replace(r"\*", ".*")
    return re.fullmatch(expression, action.lower(), re.DOTALL) is not None


@given(st.text("aB/*", max_size=8), st.text("ab/", max_size=8))
def test_patterns_mean_what_the_expression_means(pattern: str, action: str) -> None:
    # "/*/*/" shares no slash in the expression's left-to-right rewriting, so it is left to the cases above.
    # Two stars in a row are one.
    plain = re.sub(r"\*+", "*", pattern)
    if "/*/*/" not in plain:
        assert matches(pattern, action) == _by_hand(plain, action)


@pytest.mark.parametrize(
    ("role", "action", "yes"),
    [
        ("Owner", "Microsoft.Authorization/roleAssignments/write", True),
        ("Contributor", "Microsoft.Authorization/roleAssignments/write", False),
        ("Contributor", "Microsoft.Authorization/roleAssignments/read", True),
        ("Contributor", ML + "computes/write", True),
        ("Reader", ML + "read", True),
        ("Reader", ML + "jobs/write", False),
        ("Reader", ML + "listKeys/action", False),
        ("AzureML Data Scientist", ML + "read", True),
        ("AzureML Data Scientist", ML + "jobs/write", True),
        ("AzureML Data Scientist", ML + "jobs/cancel/action", True),
        ("AzureML Data Scientist", ML + "datastores/listSecrets/action", True),
        ("AzureML Data Scientist", ML + "computes/read", True),
        ("AzureML Data Scientist", ML + "computes/write", False),
        ("AzureML Data Scientist", ML + "computes/delete", False),
        ("AzureML Data Scientist", ML + "write", False),
        ("AzureML Data Scientist", ML + "delete", False),
        ("AzureML Compute Operator", ML + "computes/write", True),
        ("AzureML Compute Operator", ML + "jobs/write", False),
        ("User Access Administrator", "Microsoft.Authorization/roleAssignments/write", True),
        ("Tidemill Job", ML + "read", True),
        ("Tidemill Job", ML + "jobs/read", True),
        ("Tidemill Job", ML + "experiments/runs/write", True),
        ("Tidemill Job", ML + "jobs/write", False),
        ("Tidemill Job", ML + "secrets/read", False),
        ("Tidemill Job", ML + "datastores/listSecrets/action", False),
    ],
)
def test_built_in_roles(role: str, action: str, yes: bool) -> None:
    assert allows(ROLES[role], action) is yes
    assert not allows(ROLES[role], action, data=True)


# A world of three principals, two groups, three roles, over a small tree of scopes.

SCOPES = ["/", "/subscriptions/S", "/subscriptions/s/resourceGroups/G", "/subscriptions/s/resourceGroups/G2"]
SCOPES += [SCOPES[2] + "/providers/M/workspaces/w", SCOPES[2] + "/providers/M/workspaces/w/jobs/j"]
WHO = ["u1", "u2", "g1", "g2", "g3"]
PATTERNS = ["*", "a/*", "*/read", "a/b/read", "a/b/write", "a/*/write"]
ACTIONS = ["a/b/read", "A/b/write", "a/read", "c/read"]

permissions = st.builds(
    Permission,
    *(st.lists(st.sampled_from(PATTERNS), max_size=2).map(tuple) for _ in range(4)),
)
roles = st.lists(permissions, min_size=1, max_size=2).map(tuple)
world = st.fixed_dictionaries(
    {
        "roles": st.tuples(roles, roles, roles),
        "assigned": st.lists(
            st.tuples(st.sampled_from(WHO), st.integers(0, 2), st.sampled_from(SCOPES)), max_size=6
        ),
        "members": st.lists(st.tuples(st.sampled_from(WHO[2:]), st.sampled_from(WHO)), max_size=6),
        "disabled": st.sets(st.sampled_from(WHO), max_size=1),
    }
)


def naive(drawn: dict, oid: str, action: str, scope: str, data: bool) -> bool:
    if oid in drawn["disabled"]:
        return False
    mine, grown = {oid}, True
    while grown:
        more = {g for g, m in drawn["members"] if m in mine and g not in drawn["disabled"]}
        grown = not more <= mine
        mine |= more
    for who, role, where in drawn["assigned"]:
        if who in mine and covers(fold_scope(where), fold_scope(scope)):
            for p in drawn["roles"][role]:
                yes, no = (p.data_actions, p.not_data_actions) if data else (p.actions, p.not_actions)
                if any(_by_hand(x, action) for x in yes) and not any(_by_hand(x, action) for x in no):
                    return True
    return False


def build(drawn: dict) -> AccessIndex:
    index = AccessIndex()
    for oid in WHO:
        kind = PrincipalKind.GROUP if oid[0] == "g" else PrincipalKind.USER
        index.put_principal(Principal(oid, kind, oid, disabled=oid in drawn["disabled"]))
    for group in WHO[2:]:
        index.put_members(group, [m for g, m in drawn["members"] if g == group])
    for at, role in enumerate(drawn["roles"]):
        index.put_role(RoleDefinition(str(at), f"role{at}", role))
    for at, (who, role, scope) in enumerate(drawn["assigned"]):
        index.put_assignment(RoleAssignment(str(at), scope, who, str(role)))
    return index


@given(world, st.sampled_from(WHO), st.sampled_from(ACTIONS), st.sampled_from(SCOPES), st.booleans())
def test_the_index_decides_like_the_rules(drawn, oid, action, scope, data) -> None:
    decision = build(drawn).decide(oid, action, scope, data)
    assert decision.allowed == naive(drawn, oid, action, scope, data)
    if decision.allowed:
        assert decision.assignment is not None
        assert decision.role is not None
        assert allows(decision.role, action, data)
        assert decision.assignment.principal == (decision.via[-1] if decision.via else oid)
        chain = [oid, *decision.via]
        assert all((g, m) in drawn["members"] for m, g in itertools.pairwise(chain))
    assert decision.reason


@given(world, world, st.sampled_from(WHO), st.sampled_from(ACTIONS), st.sampled_from(SCOPES))
def test_changes_leave_nothing_behind(before, after, oid, action, scope) -> None:
    index = build(before)
    index.decide(oid, action, scope)
    for oid_ in WHO:
        kind = PrincipalKind.GROUP if oid_[0] == "g" else PrincipalKind.USER
        index.put_principal(Principal(oid_, kind, oid_, disabled=oid_ in after["disabled"]))
    for group in WHO[2:]:
        index.put_members(group, [m for g, m in after["members"] if g == group])
    for at in range(len(before["assigned"])):
        index.drop_assignment(str(at))
    for at, role in enumerate(after["roles"]):
        index.put_role(RoleDefinition(str(at), f"role{at}", role))
    for at, (who, role, where) in enumerate(after["assigned"]):
        index.put_assignment(RoleAssignment(str(at), where, who, str(role)))
    assert index.decide(oid, action, scope).allowed == naive(after, oid, action, scope, False)


@given(world, st.sampled_from(WHO), st.sampled_from(ACTIONS), st.sampled_from(SCOPES))
def test_what_a_list_shows_is_what_may_be_read(drawn, oid, action, below) -> None:
    index = build(drawn)
    shown = index.scopes_of(oid, action, below)
    for scope in SCOPES:
        inside = scope != below and covers(fold_scope(below), fold_scope(scope))
        if inside and any(covers(one, fold_scope(scope)) for one in shown):
            assert index.decide(oid, action, scope).allowed
        if inside and index.decide(oid, action, scope).allowed:
            seen = any(covers(one, fold_scope(scope)) for one in shown)
            assert seen or index.decide(oid, action, below).allowed


@given(world, st.sampled_from(ACTIONS), st.sampled_from(SCOPES[1:]))
def test_holders_are_those_who_may(drawn, action, scope) -> None:
    index = build(drawn)
    people = {oid for oid in WHO if oid[0] == "u"}
    found = index.holders_of((action,), scope)
    assert {oid for oid, _ in found} == {oid for oid in people if index.decide(oid, action, scope).allowed}
    assert all(index.has(oid, given.id, scope) for oid, given in found)
    for oid in people:
        held = {one.assignment.id for ones in index.held(oid).values() for one in ones}
        for at in range(len(drawn["assigned"])):
            if index.has(oid, str(at), scope):
                assert str(at) in held
                assert oid not in drawn["disabled"]


def test_nobody_may_nothing_and_says_why() -> None:
    index = AccessIndex(builtin_roles())
    assert "does not exist" in index.decide("x", "a/read", "/subscriptions/s").reason
    index.put_principal(Principal("x", PrincipalKind.USER, "ann"))
    assert index.decide("x", "a/read", "/subscriptions/s").reason == "'ann' has no role at /subscriptions/s."
    index.put_principal(Principal("t", PrincipalKind.GROUP, "team"))
    index.put_members("t", ["x"])
    index.put_assignment(RoleAssignment("1", "/subscriptions/s", "t", ROLES["Reader"].id))
    yes = index.decide("x", "a/read", "/subscriptions/S/resourceGroups/g")
    assert yes.reason == "'ann' is Reader at /subscriptions/s, through group team."
    no = index.decide("x", "a/write", "/subscriptions/s")
    assert no.reason == "The one role that 'ann' has at /subscriptions/s does not allow a/write."
    index.drop_principal("x")
    assert not index.decide("x", "a/read", "/subscriptions/s").allowed
    assert index.role(JOB_ROLE) is not None


def test_a_scope_is_no_prefix_of_a_longer_name() -> None:
    assert not covers("/subscriptions/s/resourcegroups/g", "/subscriptions/s/resourcegroups/g2")
    assert covers(fold_scope("/Subscriptions/S/"), fold_scope("/subscriptions/s/x"))
