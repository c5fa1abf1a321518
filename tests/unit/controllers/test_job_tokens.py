"""What a job's token may do, and for how long."""

from __future__ import annotations

from typing import Any

import pytest
from world import FOREVER, OWNER, SCOPE, World

from tidemill.app.jobs import jobs
from tidemill.app.people import access
from tidemill.domain.errors import Forbidden, Unauthenticated
from tidemill.domain.model import Caller, JobState, Scope
from tidemill.engines.base import TaskKey

_JOBS = "Microsoft.MachineLearningServices/workspaces/jobs"


async def started(world: World, name: str, **more: Any) -> Caller:
    world.plans[name] = FOREVER
    await world.submit(name, "cpu", **more)
    await world.until(lambda: world.row(name).state == JobState.RUNNING)
    return Caller(world.row(name).uid, name, "job", SCOPE, name)


async def test_it_ends_with_its_job(world: World):
    await world.start()
    await world.cluster()
    caller = await started(world, "a")
    await access.check_lives(world.services, caller)
    (attempt,) = world.attempts("a")
    world.engine.finish(attempt.nodes[0], TaskKey(attempt.id, 0))
    await world.ended("a")
    with pytest.raises(Unauthenticated, match="has ended"):
        await access.check_lives(world.services, caller)
    with pytest.raises(Unauthenticated):
        await access.check_lives(world.services, Caller("nobody", "x", "job", SCOPE, "x"))
    await access.check_lives(world.services, OWNER)


async def test_it_changes_no_other_job(world: World):
    await world.start()
    await world.cluster()
    caller = await started(world, "a")
    await started(world, "b")
    with pytest.raises(Forbidden, match="only itself"):
        await jobs.patch(world.services, caller, SCOPE, "b", {"hidden": True})
    row = await jobs.patch(world.services, caller, SCOPE, "a", {"tags": {"k": "v"}})
    assert row.tags == b'{"k":"v"}'


async def test_it_reaches_no_other_workspace_and_submits_nothing(world: World):
    caller = Caller("u", "a", "job", SCOPE, "a")
    await access.authorise(world.services, caller, f"{_JOBS}/read", SCOPE)
    for action, scope in (
        (f"{_JOBS}/write", SCOPE),
        (f"{_JOBS}/cancel/action", SCOPE),
        (f"{_JOBS}/delete", SCOPE),
        (f"{_JOBS}/read", Scope(SCOPE.subscription, SCOPE.group, "other")),
        (f"{_JOBS}/read", Scope(SCOPE.subscription, SCOPE.group)),
        ("Microsoft.MachineLearningServices/workspaces/listKeys/action", SCOPE),
        ("Microsoft.MachineLearningServices/workspaces/datastores/listSecrets/action", SCOPE),
    ):
        with pytest.raises(Forbidden):
            await access.authorise(world.services, caller, action, scope)


async def test_it_lives_no_longer_than_the_jobs_own_limit_and_an_hour(world: World):
    issued: list[dict[str, Any]] = []
    world.services.tokens.issue_job = lambda **given: issued.append(given) or "t"  # type: ignore[method-assign]
    await world.start()
    await world.cluster()
    await started(world, "short", limits={"jobLimitsType": "Command", "timeout": "PT60S"})
    await started(world, "long")
    assert [given["ttl_s"] for given in issued] == [3660, 7 * 24 * 3600]
