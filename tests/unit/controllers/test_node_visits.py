"""Shells on nodes: who is let in, what is told, and that a job finds nobody who may not look inside it."""

from __future__ import annotations

import asyncio

import pytest
from world import FOREVER, OWNER, SCOPE, World

from tidemill.app.jobs import node_visits
from tidemill.app.people import principals
from tidemill.app.visitors import Visit
from tidemill.domain import looking
from tidemill.domain.errors import Conflict, Forbidden, NotFound
from tidemill.domain.isolation import Limit
from tidemill.domain.model import Caller, JobState, Node, NodeState
from tidemill.domain.principals import PrincipalKind
from tidemill.domain.roles import RoleAssignment
from tidemill.engines.base import EngineError

OPERATOR = "e503ece1-11d0-4e8e-8e2c-7a6c3bf38815"


async def idle_node(world: World, files: Limit | None = None) -> Node:
    world.engine.limits = {"files": files or Limit(True, "bubblewrap")}
    await world.start()
    await world.cluster(low=1, high=1)
    await world.until(lambda: any(node.state is NodeState.IDLE for node in world.nodes()), "a node is idle")
    return world.nodes()[0]


async def operator(world: World, name: str) -> Caller:
    """Somebody who may have shells on nodes, and look inside no job."""
    made = await principals.create(world.services, OWNER, PrincipalKind.USER, name)
    assignment = RoleAssignment(f"a-{name}", SCOPE.arm_id, made.oid, OPERATOR)
    await world.store.write(lambda tx: tx.insert_role_assignment(assignment))
    return Caller(made.oid, name, "User")


async def shell(world: World, caller: Caller, node: Node) -> Visit:
    s = world.services
    world.plans["infinity"] = FOREVER
    return await node_visits.begin(s, caller, await node_visits.target_of(s, caller, SCOPE, "cpu", node.id))


async def test_a_shell_is_told_and_its_node_is_used(world: World) -> None:
    node = await idle_node(world)
    before = node.idle_since
    world.clock.ahead += 60_000_000
    visit = await shell(world, OWNER, node)
    assert world.codes(node.id)[-1] == "ShellOpened"
    assert [one.caller.oid for one in world.services.visits.on((node.id,))] == [OWNER.oid]
    opened = world.read().node(node.id).idle_since
    assert before is not None
    assert opened >= before + 60_000_000
    await node_visits.end(world.services, visit, "exit code 0")
    await world.until(visit.gone.is_set, "its processes are gone")
    assert world.codes(node.id)[-1] == "ShellEnded"
    assert world.services.visits.on((node.id,)) == []
    assert await node_visits.why_ended(world.services, visit, 0) == ""
    assert "were killed" in await node_visits.why_ended(world.services, visit, None)


async def test_who_is_not_let_in(world: World) -> None:
    node = await idle_node(world, Limit(False, "", "bubblewrap is not installed"))
    with pytest.raises(Conflict) as caught:
        await shell(world, OWNER, node)
    assert caught.value.code == "NodeNotIsolated"
    assert "bubblewrap is not installed" in caught.value.message
    with pytest.raises(NotFound) as absent:
        await node_visits.target_of(world.services, OWNER, SCOPE, "cpu", "cpu-x")
    assert f"Its nodes: {node.id} (idle)." in absent.value.message
    with pytest.raises(NotFound):
        await node_visits.target_of(world.services, OWNER, SCOPE, "other", node.id)


async def test_no_more_than_a_few(world: World) -> None:
    node = await idle_node(world)
    visits = [await shell(world, OWNER, node) for _ in range(looking.MOST_VISITS)]
    with pytest.raises(Conflict, match="end one of them first"):
        await shell(world, OWNER, node)
    await node_visits.end(world.services, visits[0], "exit code 0")
    await world.until(visits[0].gone.is_set)
    await shell(world, OWNER, node)


async def test_a_job_starts_after_the_last_stranger_is_gone(world: World) -> None:
    node = await idle_node(world)
    stranger = await operator(world, "olga")
    theirs, own = await shell(world, stranger, node), await shell(world, OWNER, node)
    gate, original = asyncio.Event(), world.engine.stop

    async def stop(node_id, task, epoch, reason):
        await gate.wait()
        await original(node_id, task, epoch, reason)

    world.engine.stop = stop  # type: ignore[method-assign]
    world.plans["a"] = FOREVER
    await world.submit("a", "cpu")
    await world.until(lambda: bool(theirs.ended), "it is asked to go")
    assert "may not look inside" in theirs.ended
    with pytest.raises(Forbidden, match="may not look inside"):
        await node_visits.target_of(world.services, stranger, SCOPE, "cpu", node.id)
    assert not [call for call in world.calls("start") if not call[2].attempt_id.startswith("visit-")]
    gate.set()
    await world.until(lambda: world.row("a").state == JobState.RUNNING, "the job runs")
    assert theirs.gone.is_set()
    assert not own.ended
    assert world.services.visits.on((node.id,)) == [own]


async def test_a_shell_that_does_not_go_is_no_reason_to_start_beside_it(world: World, monkeypatch) -> None:
    monkeypatch.setattr(node_visits, "_GONE_S", 0.05)
    node = await idle_node(world)
    visit = await shell(world, await operator(world, "olga"), node)

    async def stop(*given) -> None: ...

    world.engine.stop = stop  # type: ignore[method-assign]
    await world.submit("a", "cpu")
    row = world.row("a")
    with pytest.raises(EngineError, match="did not end within"):
        await node_visits.make_way(world.services, row, [node.id])
    assert not visit.gone.is_set()


async def test_it_goes_with_its_node_and_with_its_server(world: World) -> None:
    node = await idle_node(world)
    visit = await shell(world, OWNER, node)
    world.services.visits.remove(visit)  # a new server remembers nobody
    await world.restart()
    await world.until(lambda: bool(world.calls("stop")), "a task that nobody knows is stopped")
    assert world.calls("stop")[-1][2] == visit.task
    again = await shell(world, OWNER, node)
    world.engine.lose(node.id)
    await world.until(again.gone.is_set, "it has gone with its node")
    assert "was closed" in await node_visits.why_ended(world.services, again, 137)


def test_a_node_is_noted_as_used_well_before_it_would_be_idle_for_long() -> None:
    assert looking.use_interval(2_000_000) == pytest.approx(2 / 3)
    assert looking.use_interval(120_000_000) == looking.USE_S
    assert looking.use_interval(0) == 0.1
