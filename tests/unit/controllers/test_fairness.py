"""Teams, quotas, priorities and the queue: whole paths over the store in memory and the fake engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from world import FOREVER, OWNER, SCOPE, World

from tidemill.app.computes import computes, quotas
from tidemill.app.computes.quotas import Change
from tidemill.app.jobs import jobs
from tidemill.app.people import principals
from tidemill.app.people.access import AccessDenied
from tidemill.app.rows.codec import job_status
from tidemill.app.views import fairness
from tidemill.domain.errors import Forbidden, InvalidRequest, NotFound
from tidemill.domain.model import Caller, JobState, Scope
from tidemill.domain.principals import PrincipalKind
from tidemill.domain.roles import RoleAssignment
from tidemill.engines.fake import Plan

SCIENTIST = "f6c7c914-8db3-469d-8ca1-694a8f32e121"  # AzureML Data Scientist


async def person(world: World, name: str, *groups: str, scope: str = SCOPE.arm_id) -> Caller:
    """A data scientist of the workspace, in these groups (made where they are not there)."""
    made = await principals.create(world.services, OWNER, PrincipalKind.USER, name)
    assignment = RoleAssignment(made.oid, scope, made.oid, SCIENTIST, "", 1, "test")
    await world.store.write(lambda tx: tx.insert_role_assignment(assignment))
    for group in groups:
        known = await world.store.read(lambda r: r.principal_named(group))  # noqa: B023
        if known is None:
            await principals.create(world.services, OWNER, PrincipalKind.GROUP, group)
        await principals.add_member(world.services, group, name)
    return Caller(made.oid, name, "User", principal=made)


async def submit(world: World, who: Caller, name: str, compute: str = "cpu", **more: Any) -> Any:
    properties = {"jobType": "Command", "command": f"run {name}", "computeId": compute, **more}
    row, _ = await jobs.submit(world.services, who, SCOPE, name, {"properties": properties})
    return row


async def limit(world: World, kind: str, who: str, weight: float | None = None, **limits: int) -> quotas.Rule:
    return await quotas.change(world.services, OWNER, Change(kind, who, SCOPE, limits, weight))


def states(world: World, *names: str) -> list[str]:
    return [world.row(name).state for name in names]


async def running(world: World, *names: str) -> None:
    await world.until(lambda: states(world, *names) == [JobState.RUNNING] * len(names), f"{names} run")


async def test_a_team_s_quota_holds_and_is_explained_with_its_holders(world: World) -> None:
    ann, bob = await person(world, "ann", "vision"), await person(world, "bob", "vision")
    await limit(world, "team", "vision", nodes=2)
    world.plans.update(a=FOREVER, b=FOREVER, c=FOREVER, d=FOREVER)
    await world.start()
    await world.cluster(high=4)
    await submit(world, ann, "a", limits={"jobLimitsType": "Command", "timeout": "PT1H"})
    await running(world, "a")
    await submit(world, bob, "b")
    await running(world, "b")
    await submit(world, ann, "c")
    await submit(world, OWNER, "d")
    await running(world, "d")
    assert states(world, "c") == [JobState.QUEUED]
    said = await fairness.explain(world.services, ann, SCOPE, fairness.Ask(job="c"))
    assert said["verdict"] == (
        "Waits for the quota of team 'vision': 2 used + 1 asked = 3, limit 2 nodes: "
        "1 node must be given back first."
    )
    assert said["fits"] is False
    (equation,) = said["equations"]
    assert (equation["limit"], equation["used"], equation["asked"], equation["name"]) == (2, 2, 1, "vision")
    first, second = equation["holders"]
    assert (first["job"], first["user"], first["released_by"]) == ("a", "ann", "its timeout, at the latest")
    assert first["released_at"] > first["since"]
    assert (second["job"], second["user"], second["released_at"]) == ("b", "bob", None)
    shown = await fairness.show(world.services, OWNER)
    assert shown[0]["limits"] == [{"measure": "nodes", "limit": 2, "used": 2}]
    await limit(world, "team", "vision", nodes=3)
    await running(world, "c")


async def test_what_can_never_fit_is_refused_at_submit_with_the_equation(world: World) -> None:
    ann = await person(world, "ann")
    await limit(world, "user", "*", cores=1)
    await world.start()
    await world.cluster(high=4)
    with pytest.raises(InvalidRequest) as caught:
        await submit(world, ann, "big", resources={"instanceCount": 2})
    assert caught.value.code == "QuotaExceeded"
    assert caught.value.message.startswith(
        "Job 'big' can never start: the quota of user 'ann' does not allow it. "
        "0 used + 2 asked = 2, limit 1 core."
    )
    assert await world.store.read(lambda r: r.get(jobs.key_of(SCOPE, "big"))) is None


async def test_the_team_is_the_tag_s_then_the_default_one_then_the_first(world: World) -> None:
    ann = await person(world, "ann", "vision", "audio", "chess club")
    await limit(world, "team", "vision", weight=2.0)
    await limit(world, "team", "audio", jobs=9)
    await world.start()
    world.plans.update(a=FOREVER, b=FOREVER, c=FOREVER)

    async def team(name: str, **more: Any) -> str:
        row = await submit(world, ann, name, compute="", **more)
        oid = job_status(row.status).plan.team
        found = await world.store.read(lambda r: r.principal(oid))
        assert found is not None
        return found.name

    assert await team("a") == "audio"
    assert await team("b", tags={"tidemill.team": "Vision"}) == "vision"
    change = Change("user", "ann", default_team="vision")
    await quotas.change(world.services, OWNER, change)
    assert await team("c") == "vision"
    with pytest.raises(InvalidRequest) as caught:
        await team("d", tags={"tidemill.team": "chess club"})
    assert "not in. Teams of ann: audio, vision." in caught.value.message


async def test_priority_above_medium_needs_an_action_and_says_who_has_it(world: World) -> None:
    ann = await person(world, "ann")
    await world.start()
    high = {"queueSettings": {"priority": 3}}
    with pytest.raises(Forbidden) as caught:
        await submit(world, ann, "fast", compute="", **high)
    assert caught.value.code == "PriorityNotAllowed"
    assert "highPriorityJobs/submit/action" in caught.value.message
    assert "owner may." in caught.value.message
    await submit(world, ann, "usual", compute="", queueSettings={"priority": 2})
    await submit(world, OWNER, "urgent", compute="", **high)


async def test_the_queue_in_order_and_only_what_one_may_see(world: World) -> None:
    ann = await person(world, "ann")
    eve = await person(world, "eve", scope=SCOPE.arm_id.replace("/main", "/other"))
    world.plans.update(a=FOREVER)
    await world.start()
    await world.cluster(high=1)
    await submit(world, ann, "a", limits={"jobLimitsType": "Command", "timeout": "PT1H"})
    await running(world, "a")
    await submit(world, ann, "b", queueSettings={"priority": 1})
    await submit(world, OWNER, "c")
    await world.until(lambda: world.services.live.explain(world.row("c").uid, 0) is not None, "c waits")
    first, second = await fairness.queue(world.services, OWNER, SCOPE, "cpu", 10)
    assert (first["position"], first["job"], first["user"], first["priority"]) == (1, "c", "owner", "medium")
    assert (second["position"], second["job"], second["team"], second["priority"]) == (2, "b", "ann", "low")
    assert first["expected_at"] is not None, "a's timeout is known"
    assert second["expected_at"] is None, "c's is not"
    assert "a holds the busy ones" in first["reason"]
    foreign = await fairness.queue(world.services, eve, None, "", 10)
    assert [line["job"] for line in foreign] == ["another team's job"] * 2
    assert {key for line in foreign for key, value in line.items() if value is not None} == {
        "position",
        "job",
        "size",
        "nodes",
        "submitted_at",
        "waits_s",
        "expected_at",
    }
    with pytest.raises(NotFound, match="Did you mean 'cpu'"):
        await fairness.queue(world.services, OWNER, SCOPE, "cpuu", 10)
    # Narrowing must not tell what the lines do not: whose computes are called what, and who waits there.
    assert await fairness.queue(world.services, eve, None, "cpu", 10) == []
    for compute in ("cpu", "cpuu", ""):
        with pytest.raises(AccessDenied):
            await fairness.queue(world.services, eve, SCOPE, compute, 10)


async def test_a_job_that_submits_for_somebody_counts_as_them(world: World) -> None:
    """Else who submits through a job has a fair share, and a quota, for each such job."""
    ann = await person(world, "ann")
    await world.start()
    name = {"identity": {"identityType": "UserIdentity"}}
    parent = await submit(world, ann, "parent", compute="", **name)
    child = Caller(parent.uid, "parent", "job", scope=SCOPE, job="parent", acts_as=ann.oid)
    row = await submit(world, child, "child", compute="", **name)
    plan = job_status(row.status).plan
    assert (plan.team, plan.user, plan.acts_as) == (ann.oid, ann.oid, ann.oid)
    await limit(world, "user", "ann", cores=1)
    await world.cluster(high=4)
    with pytest.raises(InvalidRequest, match="the quota of user 'ann' does not allow it"):
        await submit(world, child, "big", resources={"instanceCount": 2}, **name)


async def test_a_hypothetical_ask_and_what_earlier_runs_took(world: World) -> None:
    minute = 60_000_000
    world.plans.update(r=FOREVER, **{name: Plan(after=minute) for name in ("e1", "e2", "e3")})
    await world.start()
    await world.cluster(high=2)
    for name in ("e1", "e2", "e3"):
        await submit(world, OWNER, name, experimentName="exp")
        await running(world, name)
        world.clock.ahead += minute
        world.engine.advance()
        await world.ended(name)
    await submit(world, OWNER, "r", experimentName="exp")
    await running(world, "r")
    await limit(world, "user", "owner", standardDSv2Family=1)
    await world.until(
        lambda: bool(fairness.scheduler(world.services).used([("user", OWNER.oid, "jobs")])), "used"
    )
    said = await fairness.explain(world.services, OWNER, SCOPE, fairness.Ask(size="Standard_DS1_v2", nodes=2))
    assert (said["fits"], said["nodes"], said["size"]) == (False, 2, "Standard_DS1_v2")
    assert said["verdict"].startswith(
        "Job 'this' can never start: the quota of user 'owner' does not allow it."
    )
    (equation,) = said["equations"]
    assert equation["text"] == "1 used + 2 asked = 3, limit 1 vCPU of standardDSv2Family"
    assert equation["holders"][0]["released_by"] == "the median of 3 earlier runs of exp"
    world.clock.ahead += 2 * minute
    late = await fairness.explain(world.services, OWNER, SCOPE, fairness.Ask(size="Standard_DS1_v2", nodes=2))
    (holder,) = late["equations"][0]["holders"]
    assert holder["released_at"] is None
    assert holder["released_by"] == "it runs longer than the median of 3 earlier runs of exp"
    none = await fairness.explain(world.services, OWNER, SCOPE, fairness.Ask(size="Standard_E4s_v3"))
    assert (none["fits"], none["verdict"]) == (True, "No quota holds for it.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change("tema", "x"), "kind 'tema' is none. Use one of team, user, workspace, compute."),
        (Change("team", "vison"), "Did you mean 'vision'"),
        (Change("team", "ann"), "'ann' is a User, not a group"),
        (Change("user", "vision"), "'vision' is a group"),
        (Change("user", "ann", None, {"core": 1}), "'core' is no measure"),
        (Change("user", "ann", None, {"cores": -2}), "limits.cores is -2"),
        (Change("user", "ann", None, {"cores": True}), "limits.cores is True"),
        (Change("user", "ann", None, {"cores": 1.5}), "limits.cores is 1.5"),
        (Change("user", "ann", None, {}, -1), "weight is -1"),
        (Change("user", "ann", None, {}, "2"), "weight is '2'"),  # type: ignore[arg-type]
        (Change("workspace", "main"), "'workspace' must be given"),
        (Change("workspace", "m", Scope(SCOPE.subscription, SCOPE.group, "mian")), "'main'"),
        (Change("compute", "cpu", SCOPE), "Compute 'cpu' was not found"),
        (Change("compute", "local", SCOPE, {}, 2.0), "A compute has no weight"),
        (Change("team", "vision", default_team="vision"), "Only a user has a default team"),
    ],
)
async def test_refused_with_the_place_and_the_fix(world: World, change: Change, words: str) -> None:
    await person(world, "ann", "vision")
    with pytest.raises((InvalidRequest, NotFound)) as caught:
        await quotas.change(world.services, OWNER, change)
    assert words in caught.value.message


async def test_a_rule_is_merged_and_gone_when_empty(world: World) -> None:
    await person(world, "ann")
    await limit(world, "user", "ann", cores=4, jobs=2)
    rule = await limit(world, "user", "ann", weight=0.5, cores=-1)
    assert (dict(rule.limits), rule.weight) == ({"jobs": 2}, 0.5)
    assert quotas.describe(rule) == "2 jobs, weight 0.5"
    await limit(world, "user", "ann", weight=0, jobs=-1)
    assert await world.store.read(quotas.rules) == []


async def test_what_was_set_for_somebody_goes_with_them(world: World) -> None:
    await person(world, "ann", "vision")
    for kind, who in (("user", "ann"), ("team", "vision"), ("user", "*")):
        await limit(world, kind, who, jobs=5)
    await quotas.change(world.services, OWNER, Change("user", "ann", default_team="vision"))
    await world.start()
    shown = await fairness.show(world.services, OWNER)
    assert [(rule["name"], rule["default_team"]) for rule in shown if rule["default_team"]] == [
        ("ann", "vision")
    ]
    for who in ("ann", "vision"):
        await principals.delete(world.services, who)
    assert [rule.name for rule in await world.store.read(quotas.rules)] == ["*"]


async def test_the_quota_of_a_compute_outlives_it_and_can_be_taken_away(world: World) -> None:
    """Else making it anew would be a way around the quota."""
    await world.start()
    await world.cluster(high=1)
    await limit(world, "compute", "cpu", nodes=1)
    await computes.delete(world.services, OWNER, SCOPE, "cpu")
    assert [rule.kind for rule in await world.store.read(quotas.rules)] == ["compute"]
    rule = await limit(world, "compute", "CPU", nodes=-1)
    assert (rule.name, rule.empty) == ("cpu", True)
    assert await world.store.read(quotas.rules) == []
    with pytest.raises(NotFound, match="Compute 'cpu' was not found"):
        await limit(world, "compute", "cpu", nodes=1)


async def test_whoever_may_not_read_quotas_sees_their_own(world: World) -> None:
    ann = await person(world, "ann", "vision")
    await person(world, "bob", "audio")
    for kind, who in (("user", "ann"), ("user", "bob"), ("team", "vision"), ("team", "audio"), ("user", "*")):
        await limit(world, kind, who, jobs=5)
    await limit(world, "workspace", "main", nodes=5)
    await world.start()
    names = [(rule["kind"], rule["name"]) for rule in await fairness.show(world.services, ann)]
    assert names == [("user", "ann"), ("team", "vision"), ("user", "*"), ("workspace", "main")]
    assert len(await fairness.show(world.services, OWNER)) == 6


async def test_shares_outlive_a_round_that_failed(world: World) -> None:
    world.plans.update(a=Plan())
    running_now = await world.start()
    await submit(world, OWNER, "a", compute="")
    await world.ended("a")
    before = fairness.scheduler(world.services).usages(world.clock.now())
    running_now.pool._stale = True  # pyright: ignore[reportPrivateUsage]
    await submit(world, OWNER, "b", compute="")
    await world.ended("b")
    after = fairness.scheduler(world.services).usages(world.clock.now())
    assert [replace(u, value=0, at=0) for u in before] == [replace(u, value=0, at=0) for u in after]
    assert all(later.value > sooner.value * 0.99 for sooner, later in zip(before, after, strict=True))
