"""Schedules over the whole path: due, submitted, run; after downtime and kills; in whose name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from world import OWNER, SCOPE, World

from tidemill.app.jobs import endings, jobs
from tidemill.app.people import access, principals
from tidemill.app.rows.codec import decode_object
from tidemill.app.schedules import schedule_runs, schedules
from tidemill.app.times import iso
from tidemill.domain.errors import InvalidRequest, NotFound, NotOffered
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.principals import PrincipalKind
from tidemill.domain.roles import RoleAssignment
from tidemill.domain.schedules import MOST_FAILURES
from tidemill.store.api import ResourceQuery

MINUTE, HOUR, DAY = 60 * 1_000_000, 3600 * 1_000_000, 86_400 * 1_000_000
DATA_SCIENTIST = "f6c7c914-8db3-469d-8ca1-694a8f32e121"
COMPUTE_OPERATOR = "e503ece1-11d0-4e8e-8e2c-7a6c3bf38815"


class HandClock:
    """Stands still until it is moved."""

    def __init__(self, world: World) -> None:
        # 2026-03-02 01:59:30, a Monday
        self.ahead = 0
        self.base = 1_772_416_770_000_000
        world.services = replace(world.services, clock=self)

    def now(self) -> int:
        return self.base + self.ahead

    def boottime(self) -> int:
        return self.ahead


@pytest.fixture
def clock(world: World) -> HandClock:
    return HandClock(world)


def body(expression: str = "0 2 * * *", enabled: bool | None = None, **more: Any) -> dict[str, Any]:
    definition = {"jobType": "Command", "command": "run job", "computeId": "cpu", **more.pop("job", {})}
    properties: dict[str, Any] = {
        "action": {"actionType": "CreateJob", "jobDefinition": definition},
        "trigger": {"triggerType": "Cron", "expression": expression, "timeZone": "UTC"},
        **more,
    }
    if enabled is not None:
        properties["isEnabled"] = enabled
    return {"properties": properties}


async def put(world: World, name: str = "nightly", caller: Caller = OWNER, **given: Any) -> Resource:
    row, _ = await schedules.put(world.services, caller, SCOPE, name, body(**given))
    return row


def row_of(world: World, name: str = "nightly") -> Resource:
    row = world.read().get(schedules.key_of(SCOPE, name))
    assert row is not None
    return row


def job_names(world: World) -> list[str]:
    return sorted(row.key.name for row in world.read().find(ResourceQuery("jobs", SCOPE)))


def said(world: World, row: Resource) -> list[str]:
    return [f"{event.code}: {event.message}" for event in world.read().events(row.uid)]


async def test_a_time_that_comes_submits_its_job(world: World, clock: HandClock):
    await world.cluster()
    row = await put(world)
    assert iso(row.next_at) == "2026-03-02T02:00:00.000000Z"
    await world.start()
    clock.ahead = 31_000_000
    world.running.schedules.changed()  # pyright: ignore[reportOptionalMemberAccess]
    await world.until(lambda: job_names(world) == ["nightly-20260302T020000Z"], "submitted")
    job = await world.ended("nightly-20260302T020000Z")
    spec = decode_object(job.spec)
    assert (job.state, spec["displayName"], job.created_by) == ("Completed", job.key.name, "owner")
    assert spec["properties"]["tidemill.schedule"] == "nightly"
    assert "Scheduled" in world.codes(job.uid)
    assert iso(row_of(world).next_at) == "2026-03-03T02:00:00.000000Z"
    assert said(world, row) == [
        "Created: Created by owner: 0 2 * * *, UTC. The next time is 2026-03-02T02:00:00Z.",
        "JobSubmitted: Job nightly-20260302T020000Z submitted for 2026-03-02T02:00:00Z. The next time is "
        "2026-03-03T02:00:00Z.",
    ]


async def test_downtime_is_caught_up_once(world: World, clock: HandClock):
    await world.cluster()
    row = await put(world)
    clock.ahead = 3 * DAY + 6 * HOUR
    await world.start()
    await world.until(lambda: bool(job_names(world)), "submitted")
    await world.until(lambda: world.codes(row.uid)[-1] == "JobSubmitted")
    assert job_names(world) == ["nightly-20260305T020000Z"]
    assert said(world, row)[1:] == [
        "Skipped: 3 times skipped, from 2026-03-02T02:00:00Z on: the server did not run, or was asleep.",
        "JobSubmitted: Job nightly-20260305T020000Z submitted for 2026-03-05T02:00:00Z, 5 h 59 min late. The "
        "next time is 2026-03-06T02:00:00Z.",
    ]


async def test_without_catching_up_downtime_is_skipped(world: World, clock: HandClock):
    await world.cluster()
    row = await put(world, tags={"tidemill.catch_up": "PT0S"})
    clock.ahead = 6 * HOUR
    await schedule_runs.run_due(world.services, row.uid)
    assert job_names(world) == []
    assert world.codes(row.uid) == ["Created", "Skipped"]
    assert iso(row_of(world).next_at) == "2026-03-03T02:00:00.000000Z"


async def test_a_commit_that_fails_or_is_done_twice_makes_one_job(world: World, clock: HandClock):
    await world.cluster()
    row = await put(world)
    clock.ahead = HOUR
    world.store.refuse = "submit.<locals>.insert"
    with pytest.raises(Exception, match="full"):
        await schedule_runs.run_due(world.services, row.uid)
    assert job_names(world) == []
    assert row_of(world).next_at == row.next_at
    stale = row_of(world)
    await schedule_runs.run_due(world.services, row.uid)
    await schedule_runs.run_due(world.services, row.uid)
    assert job_names(world) == ["nightly-20260302T020000Z"]

    # As if two looked at the same row at once: the second finds that the schedule went on.
    def back(tx: Any) -> None:
        tx.update(replace(tx.by_uid(row.uid), next_at=stale.next_at))

    await world.store.write(back)
    await schedule_runs.run_due(world.services, row.uid)
    assert job_names(world) == ["nightly-20260302T020000Z"]
    assert said(world, row)[-1].startswith("JobSubmitted: Job nightly-20260302T020000Z for ")
    assert "was there already" in said(world, row)[-1]


async def test_a_restart_goes_on_with_the_next_time(world: World, clock: HandClock):
    await world.cluster()
    await put(world, expression="*/10 * * * *")
    await world.start()
    clock.ahead = MINUTE
    await world.restart()
    await world.until(lambda: len(job_names(world)) == 1)
    await world.restart()
    await world.restart()
    clock.ahead = 11 * MINUTE
    await world.restart()
    await world.until(lambda: len(job_names(world)) == 2)
    assert job_names(world) == ["nightly-20260302T020000Z", "nightly-20260302T021000Z"]


async def test_disabled_is_not_run_and_what_was_missed_stays_missed(world: World, clock: HandClock):
    await world.cluster()
    row = await put(world)
    assert (await put(world, enabled=False)).next_at is None
    clock.ahead = DAY
    await schedule_runs.run_due(world.services, row.uid)
    enabled = await put(world, enabled=True)
    assert iso(enabled.next_at) == "2026-03-03T02:00:00.000000Z"
    assert job_names(world) == []
    assert world.codes(row.uid) == ["Created", "Disabled", "Enabled"]
    assert (await put(world, enabled=True)).revision == enabled.revision  # the same again changes nothing
    assert world.codes(row.uid) == ["Created", "Disabled", "Enabled"]
    # Without a word on it, it stays as it is.
    await put(world, enabled=False)
    assert (await put(world)).state == schedules.DISABLED


async def test_trigger_now_also_while_disabled(world: World, clock: HandClock):
    await world.cluster()
    row = await put(world, enabled=False)
    s = world.services
    name = await schedule_runs.trigger(s, OWNER, SCOPE, "nightly", "2026-03-02T01:59:30.000123+00:00")
    assert name == "nightly-20260302T015930000123Z"
    again = await schedule_runs.trigger(s, OWNER, SCOPE, "nightly", "2026-03-02T01:59:30.000123Z")
    assert (again, job_names(world)) == (name, [name])
    assert world.codes(row.uid) == ["Created", "Triggered"]
    assert row_of(world).next_at is None
    with pytest.raises(InvalidRequest, match="scheduleTime 'noon' is no time"):
        await schedule_runs.trigger(s, OWNER, SCOPE, "nightly", "noon")
    with pytest.raises(NotFound, match="Did you mean 'nightly'"):
        await schedule_runs.trigger(s, OWNER, SCOPE, "nigthly", "")


async def test_a_job_that_cannot_be_submitted_is_told_and_at_last_disables(world: World, clock: HandClock):
    compute = await world.cluster()
    row = await put(world)
    await world.store.write(lambda tx: tx.delete(tx.by_uid(compute.uid)))
    for day in range(MOST_FAILURES):
        clock.ahead = day * DAY + HOUR
        await schedule_runs.run_due(world.services, row.uid)
    found = said(world, row)
    assert found[1].startswith(
        "JobNotSubmitted: No job for 2026-03-02T02:00:00Z: Compute 'cpu' was not found"
    )
    assert found[-1].startswith("Disabled: 10 jobs in a row could not be submitted, so it is disabled.")
    assert "tidemill schedule enable --name nightly" in found[-1]
    disabled = row_of(world)
    assert (disabled.state, disabled.next_at, job_names(world)) == (schedules.DISABLED, None, [])
    assert "Compute 'cpu' was not found" in schedules.status_of(disabled).last_error
    # It may be disabled and enabled while its compute is missing: its job is looked at when it changes.
    assert schedules.status_of(await put(world, enabled=True)).failures == 0
    with pytest.raises(NotFound, match="Compute 'cpu'") as caught:
        await put(world, job={"command": "other"})
    assert caught.value.target == "properties.action.jobDefinition.computeId"


async def somebody(world: World, name: str, role: str = DATA_SCIENTIST) -> Caller:
    who = await principals.create(world.services, OWNER, PrincipalKind.USER, name)
    given = RoleAssignment(f"{name}-1", SCOPE.arm_id, who.oid, role)
    await world.store.write(lambda tx: tx.insert_role_assignment(given))
    return Caller(who.oid, name, "User", principal=who)


async def test_jobs_are_submitted_in_the_name_of_whoever_gave_the_job(world: World, clock: HandClock):
    await world.cluster()
    ann, bob = await somebody(world, "ann"), await somebody(world, "bob")
    row = await put(world, caller=ann, job={"identity": {"identityType": "UserIdentity"}})
    # Who enables it, changes its time or triggers it lends nobody a name.
    same = {"identity": {"identityType": "UserIdentity"}}
    await put(world, caller=bob, enabled=False, job=same)
    await put(world, caller=bob, enabled=True, expression="0 3 * * *", job=same)
    name = await schedule_runs.trigger(world.services, bob, SCOPE, "nightly", "")
    job = await world.job(name)
    assert job.created_by == "ann"
    assert decode_object(job.status)["plan"]["acts_as"] == ann.oid
    changed = await put(world, caller=bob, job={**same, "command": "other"})
    assert schedules.status_of(changed).owner == bob.oid
    # Rights are decided at each time.
    await world.store.write(lambda tx: tx.delete_role_assignment("bob-1"))
    clock.ahead = 2 * HOUR
    await schedule_runs.run_due(world.services, row.uid)
    assert said(world, row)[-1].startswith(
        "JobNotSubmitted: No job for 2026-03-02T02:00:00Z: The client 'bob'"
    )


async def test_who_may_not_submit_may_not_schedule(world: World, clock: HandClock):
    await world.cluster()
    eve = await somebody(world, "eve", COMPUTE_OPERATOR)
    with pytest.raises(access.AccessDenied, match="jobs/write"):
        await put(world, caller=eve)
    await put(world)
    with pytest.raises(access.AccessDenied, match="jobs/write"):
        await schedule_runs.trigger(world.services, eve, SCOPE, "nightly", "")


async def test_a_job_of_another_body_under_the_name_is_a_conflict_that_is_told(
    world: World, clock: HandClock
):
    await world.cluster()
    row = await put(world)
    await world.submit("nightly-20260302T020000Z", "cpu")
    clock.ahead = HOUR
    await schedule_runs.run_due(world.services, row.uid)
    assert "exists with another definition" in said(world, row)[-1]


async def test_an_existing_job_is_scheduled_by_its_name_or_id(world: World, clock: HandClock):
    await world.cluster()
    await world.submit("train", "cpu", inputs={"lr": {"jobInputType": "literal", "value": "0.1"}})
    given = body(job={})
    for source in (f"{SCOPE.arm_id}/jobs/train", "azureml:train"):
        changed = {"lr": {"jobInputType": "literal", "value": "0.2"}}
        definition = {"jobType": "Pipeline", "sourceJobId": source, "experimentName": "", "inputs": changed}
        given["properties"]["action"]["jobDefinition"] = definition
        row, _ = await schedules.put(world.services, OWNER, SCOPE, "again", given)
        stored = decode_object(row.spec)["action"]["jobDefinition"]
        assert (stored["command"], stored["jobType"]) == ("run train", "Command")
        assert stored["inputs"]["lr"]["value"] == "0.2"
    # The definition is the schedule's own: the job may go.
    await endings.cancel(world.services, OWNER, SCOPE, "train")
    assert await endings.delete(world.services, OWNER, SCOPE, "train")
    name = await schedule_runs.trigger(world.services, OWNER, SCOPE, "again", "")
    assert decode_object((await jobs.get(world.services, SCOPE, name)).spec)["command"] == "run train"
    definition = {"jobType": "Pipeline", "sourceJobId": f"{Scope('s', 'g', 'w').arm_id}/jobs/x"}
    given["properties"]["action"]["jobDefinition"] = definition
    with pytest.raises(InvalidRequest, match="no job of this workspace"):
        await schedules.put(world.services, OWNER, SCOPE, "other", given)


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ({"actionType": "CreateMonitor"}, r"Data monitoring schedules \(create_monitor\) are not offered"),
        ({"actionType": "ImportData"}, r"Data import schedules \(import_data\) are not offered"),
        ({"actionType": "InvokeBatchEndpoint"}, "invoke batch endpoints are not offered"),
    ],
)
async def test_other_actions_are_refused_by_name(world: World, action: dict[str, Any], says: str):
    given = body()
    given["properties"]["action"] = action
    with pytest.raises(NotOffered, match=says):
        await schedules.put(world.services, OWNER, SCOPE, "s", given)


async def test_what_is_no_schedule(world: World, clock: HandClock):
    await world.cluster()
    for given, says in (
        ({}, "no 'properties' object"),
        ({"properties": {"trigger": {"expression": "0 2 * * *"}}}, "needs an action"),
        (body(isEnabled="yes"), "isEnabled must be true or false"),
        (body(tags={"tidemill.catch_up": "soon"}), "is not an ISO 8601 duration"),
        (body(expression="0 2 * * * *"), "has 6 fields"),
        (
            {
                "properties": {
                    **body()["properties"],
                    "trigger": {"expression": "0 2 * * *", "endTime": "2020-01-01"},
                }
            },
            "has no time to come",
        ),
    ):
        with pytest.raises(InvalidRequest, match=says):
            await schedules.put(world.services, OWNER, SCOPE, "s", given)
    with pytest.raises(InvalidRequest, match="Schedule name"):
        await put(world, name="a b")


async def test_upcoming_and_delete(world: World, clock: HandClock):
    await world.cluster()
    row = await put(world, expression="0 */6 * * *")
    assert [iso(one)[:16] for one in schedules.upcoming(row, 3)] == [
        "2026-03-02T06:00",
        "2026-03-02T12:00",
        "2026-03-02T18:00",
    ]
    assert await schedules.delete(world.services, OWNER, SCOPE, "nightly") is not None
    assert await schedules.delete(world.services, OWNER, SCOPE, "nightly") is None
    with pytest.raises(NotFound, match="There are none yet"):
        await schedules.get(world.services, SCOPE, "nightly")
    clock.ahead = DAY
    await schedule_runs.run_due(world.services, row.uid)
    assert job_names(world) == []
