"""Computes that exist for one purpose: nodes as asked, in no list, and nothing of them left."""

from __future__ import annotations

import pytest
from world import OWNER, SCOPE, SECOND, World

from tidemill.app.computes import computes, implicit_computes
from tidemill.app.upkeep import workspace_deletion
from tidemill.app.views import compute_views
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Key, NodeState, Resource
from tidemill.store.api import AlreadyExists

WANTED = implicit_computes.Wanted(
    "digits.blue", "deployment 'digits/blue'", "Standard_DS1_v2", 2, 1, tags={"team": "vision"}
)


async def owner_of(world: World, name: str = "blue") -> Resource:
    """A row of a kind that nobody here knows, and its nodes, in one commit."""
    row = Resource(world.services.ids.uid(), Key(SCOPE, "things", name), created_by="owner")
    uid, now = world.services.ids.uid(), world.clock.now()

    def insert(tx):
        inserted = tx.insert(row)
        implicit_computes.make(tx, uid, inserted, WANTED, now)
        return inserted

    return await world.store.write(insert)


def compute_of(world: World, owner: Resource) -> Resource | None:
    return implicit_computes.of_owner(world.read(), owner)


def idle(world: World) -> int:
    return sum(node.state is NodeState.IDLE for node in world.nodes())


async def test_its_nodes_open_are_paid_for_and_close_with_what_they_are_for(world: World):
    await world.start()
    owner = await owner_of(world)
    await world.until(lambda: idle(world) == 1, "its minimum")
    (node,) = world.nodes()
    assert node.id.startswith("digits.blue-")
    (held,) = world.intervals(kind="node")
    assert (held.workspace, held.size, held.tags) == (SCOPE, "Standard_DS1_v2", b'{"team":"vision"}')

    await world.store.write(lambda tx: implicit_computes.resize(tx, owner, 2, 2, world.clock.now()))
    await world.until(lambda: idle(world) == 2, "resized")
    await world.store.write(lambda tx: implicit_computes.resize(tx, owner, 0, 0, world.clock.now()))
    await world.until(lambda: not world.nodes(), "to none")
    assert compute_of(world, owner) is not None
    await world.store.write(lambda tx: implicit_computes.resize(tx, owner, 1, 1, world.clock.now()))
    await world.until(lambda: idle(world) == 1, "and back")

    await world.store.write(lambda tx: implicit_computes.remove(tx, owner, world.clock.now()))
    await world.until(lambda: compute_of(world, owner) is None and not world.nodes(), "gone")
    assert all(interval.ended_at for interval in world.intervals(kind="node"))
    closed = world.read().nodes_of(held.compute_uid, closed=True)
    said = [event.message for one in closed for event in world.read().events(one.id)]
    assert "It was opened for deployment 'digits/blue' alone, which needs it no more." in said
    await world.store.write(lambda tx: implicit_computes.remove(tx, owner, world.clock.now()))  # nothing


async def test_no_list_of_computes_has_it_but_its_nodes_are_shown(world: World):
    await world.start()
    await world.cluster()
    await owner_of(world)
    await world.until(lambda: idle(world) == 1)
    assert [view.row.key.name for view in await computes.list_of(world.services, SCOPE)] == ["cpu"]
    assert [one["name"] for one in await compute_views.summaries(world.services, SCOPE)] == ["cpu"]
    nodes = await compute_views.nodes_of(world.services, SCOPE)
    assert [node["compute"] for node in nodes] == ["digits.blue"]


async def test_an_owner_has_one_and_it_is_refused_where_the_workspace_goes(world: World):
    await world.start()
    owner = await owner_of(world)
    with pytest.raises(AlreadyExists):
        await world.store.write(lambda tx: implicit_computes.make(tx, "f" * 32, owner, WANTED, 1))
    await world.until(lambda: idle(world) == 1)
    await workspace_deletion.delete(world.services, OWNER, SCOPE)
    with pytest.raises(Conflict, match="being deleted"):
        await owner_of(world, "green")
    await world.until(lambda: compute_of(world, owner) is None and not world.nodes())


@pytest.mark.parametrize("when", ["made", "opening", "open", "closing"])
async def test_a_kill_at_any_time_leaves_neither_nodes_nor_a_row(world: World, when: str):
    if when == "opening":
        world.engine._open_after = 3600 * SECOND  # pyright: ignore[reportPrivateUsage]
    await world.start()
    owner = await owner_of(world)
    if when != "made":
        await world.until(lambda: len(world.nodes()) == 1)
    if when in ("open", "closing"):
        await world.until(lambda: idle(world) == 1)
    if when == "closing":
        await world.store.write(lambda tx: implicit_computes.remove(tx, owner, world.clock.now()))
    else:  # its owner goes without a word
        await world.store.write(lambda tx: tx.delete(owner))
    await world.restart()
    await world.until(lambda: compute_of(world, owner) is None and not world.nodes(), "swept")
    await world.until(lambda: not world.engine.nodes, "the engine holds none")


async def test_a_node_that_is_decided_while_its_compute_goes_is_not_opened(world: World):
    runtime = await world.start()
    carry_out = runtime.pool._carry_out  # pyright: ignore[reportPrivateUsage]
    gone: list[bool] = []

    def remove_first(tx, decisions, when):
        row = tx.by_uid(decisions[0].cluster_uid)
        if not gone and row is not None:
            gone.append(True)
            implicit_computes.remove_row(tx, row, when.at)
        return carry_out(tx, decisions, when)

    runtime.pool._carry_out = remove_first  # type: ignore[method-assign]
    owner = await owner_of(world)
    await world.until(lambda: compute_of(world, owner) is None, "gone before it opened anything")
    await world.cluster("later", low=1)
    await world.until(lambda: idle(world) == 1)
    assert [node.id.split("-")[0] for node in world.nodes()] == ["later"]
