"""Jobs that start others: families, and who is told when. The kind here is the simplest there could be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from world import OWNER, SCOPE, World, make

from tidemill.app.jobs import command_jobs, composites, costs, endings, families, jobs
from tidemill.app.jobs.prepared import Child, Prepared
from tidemill.app.people import principals
from tidemill.app.rows.codec import job_status
from tidemill.controllers import runtime
from tidemill.controllers.composites import Composites
from tidemill.domain.errors import Conflict
from tidemill.domain.model import JobState, Resource
from tidemill.domain.plan import SWEEP, JobProgress, JobStatus
from tidemill.engines.fake import Plan


async def prepare(
    s: Any, caller: Any, scope: Any, name: str, properties: Any, child: Child | None
) -> Prepared:
    plan = await composites.header(s, caller, scope, name, properties)
    progress = JobProgress(started_at=s.clock.now())
    return Prepared(JobState.RUNNING, JobStatus(plan, progress, SWEEP), "Sweep", "nowhere")


class Chain:
    """Starts `length` children, one after the other, and ends as the last one did."""

    def __init__(self, s: Any, length: int) -> None:
        self.s, self.length = s, length
        self.told: list[frozenset[str]] = []
        self.forgotten: list[str] = []

    async def carry(self, row: Resource, changed: frozenset[str]) -> int | None:
        self.told.append(changed)
        found = await self.s.store.read(lambda r: families.children(r, row))
        live = [one for one in found if not JobState(one.state).final]
        if live:
            return None
        failed = any(one.state != JobState.COMPLETED for one in found)
        if row.state == JobState.CANCEL_REQUESTED or failed or len(found) == self.length:
            state = JobState.CANCELED if row.state == JobState.CANCEL_REQUESTED else JobState.COMPLETED
            state = JobState.FAILED if failed and state is JobState.COMPLETED else state
            now = self.s.clock.now()
            await self.s.store.write(
                lambda tx: composites.end(tx, tx.by_uid(row.uid), state, "X", "Over.", now)
            )
            return None
        step = f"s{len(found)}"
        caller = await composites.submitter(self.s, row)
        body = {"properties": {"command": f"run {step}", "tags": composites.inherited_tags(row)}}
        child = Child(row, step, (("StepStarted", f"Step {step} is started."),))
        await jobs.submit(self.s, caller, SCOPE, composites.child_name(row, step), body, child)
        return None

    def forget(self, uid: str) -> None:
        self.forgotten.append(uid)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(jobs, "KINDS", {"command": command_jobs.prepare, "sweep": prepare})
    monkeypatch.setattr(runtime, "carriers", lambda s: {SWEEP: Chain(s, 3)})
    made = await make(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def submit(world: World, name: str = "p") -> Resource:
    row, _ = await jobs.submit(world.services, OWNER, SCOPE, name, {"properties": {"jobType": "Sweep"}})
    return row


def children(world: World, name: str = "p") -> list[Resource]:
    return list(families.children(world.read(), world.row(name)))


async def test_children_run_one_after_the_other_and_are_found_by_their_parent(world: World) -> None:
    parent = await submit(world)
    row = await world.ended("p")
    assert row.state == JobState.COMPLETED
    found = children(world)
    assert [job_status(one.status).child.step for one in found] == ["s0", "s1", "s2"]  # type: ignore[union-attr]
    assert all(one.state == JobState.COMPLETED for one in found)
    assert [one.key.name for one in await jobs.list_jobs(world.services, SCOPE)] == ["p"]
    inside = await jobs.list_jobs(world.services, SCOPE, parent_uid=parent.uid)
    assert [one.uid for one in inside] == [one.uid for one in reversed(found)]
    assert world.codes(parent.uid) == ["Submitted", *["StepStarted"] * 3, "Completed"]
    price = await costs.job_cost(world.services, row)
    assert price.seconds == pytest.approx(
        sum([(await costs.job_cost(world.services, one)).seconds for one in found])
    )


async def test_cancel_ends_all_of_a_family(world: World) -> None:
    world.plans["s1"] = Plan(after=None)
    await submit(world)
    await world.until(lambda: [c.state for c in children(world)][1:] == [JobState.RUNNING])
    await endings.cancel(world.services, OWNER, SCOPE, "p")
    assert (await world.ended("p")).state == JobState.CANCELED
    assert [c.state for c in children(world)] == [JobState.COMPLETED, JobState.CANCELED]


async def test_a_restart_starts_no_child_twice(world: World) -> None:
    world.plans["s1"] = Plan(after=None)
    await submit(world)
    await world.until(lambda: [c.state for c in children(world)][1:] == [JobState.RUNNING])
    await world.restart()
    await endings.cancel(world.services, OWNER, SCOPE, children(world)[1].key.name)
    assert (await world.ended("p")).state == JobState.FAILED
    assert len(children(world)) == 2


async def test_a_family_is_archived_and_deleted_together(world: World) -> None:
    await submit(world)
    await world.ended("p")
    name = children(world)[0].key.name
    await jobs.patch(world.services, OWNER, SCOPE, "p", {"isArchived": True})
    assert all(one.archived for one in children(world))
    with pytest.raises(Conflict, match="is a part of job 'p'"):
        await endings.delete(world.services, OWNER, SCOPE, name)
    parent = world.row("p")
    assert await endings.delete(world.services, OWNER, SCOPE, "p")
    assert families.children(world.read(), parent) == ()


async def test_who_may_not_submit_any_more_starts_nothing(world: World) -> None:
    parent = await submit(world)
    await world.ended("p")
    assert (await composites.submitter(world.services, parent)).oid == OWNER.oid
    stranger = await principals.create(world.services, OWNER, "User", "guest")
    caller = type(OWNER)(stranger.oid, "guest", "User")
    row, _ = await jobs.submit(world.services, caller, SCOPE, "g", {"properties": {"jobType": "Sweep"}})
    with pytest.raises(Exception, match="does not have authorization"):
        await composites.submitter(world.services, row)


class Once:
    """Is told of a change in the very moment in which it has looked at everything."""

    def __init__(self) -> None:
        self.told: list[frozenset[str]] = []
        self.late: Callable[[], None] = lambda: None

    async def carry(self, row: Resource, changed: frozenset[str]) -> int | None:
        self.told.append(changed)
        if len(self.told) == 1:
            asyncio.get_running_loop().call_soon(self.late)  # its task is over then
        return None

    def forget(self, uid: str) -> None: ...


async def test_a_change_in_the_moment_in_which_a_look_is_over_is_not_lost(world: World) -> None:
    parent = await submit(world)
    await world.ended("p")
    await world.stop()  # nobody else looks
    await world.store.write(lambda tx: tx.update(replace(tx.by_uid(parent.uid), state=JobState.RUNNING)))
    carrier = Once()
    found = Composites(world.services, {SWEEP: carrier})
    carrier.late = lambda: found._take(parent.uid, "child")  # pyright: ignore[reportPrivateUsage]
    found._take(parent.uid)  # pyright: ignore[reportPrivateUsage]
    await world.until(lambda: len(carrier.told) == 2, "it is looked at again")
    assert carrier.told == [frozenset(), frozenset({"child"})]
    await found.stop()
