"""How clusters share one host: elastic, strict, GPUs; and what is said of others who hold it."""

from __future__ import annotations

from dataclasses import replace

from scheduling_world import (
    ELASTIC,
    GIB,
    GPU,
    LARGE,
    SMALL,
    STRICT,
    World,
    cluster,
    job,
    of,
)

from tidemill.domain.model import Scope, Vector
from tidemill.domain.scheduling import types as t
from tidemill.domain.scheduling.capacity import elastic_grants


def test_elastic_nodes_share_the_host_and_say_so() -> None:
    world = World()
    world.set_cluster(cluster("c1", LARGE, high=2))
    world.queue(job("a"), job("b"))
    opens = of(world.decide(), t.OpenNode)
    assert [o.granted for o in opens] == [Vector(2000, 8 * GIB)] * 2
    assert opens[0].sentence.endswith("It gets 2 vCPU, 8 GiB: 2 nodes share this host.")
    world.settle()
    assert set(world.pool.grants().values()) == {Vector(2000, 8 * GIB)}


def test_elastic_grants_serve_small_nodes_in_full() -> None:
    host = t.Host(Vector(8000, 16 * GIB))
    nodes = {"a": Vector(1000, GIB), "b": Vector(8000, 8 * GIB), "c": Vector(8000, 8 * GIB)}
    grants = elastic_grants(host, nodes)
    assert grants["a"] == Vector(1000, GIB)
    assert grants["b"] == grants["c"] == Vector(3500, 15 * GIB // 2)
    assert elastic_grants(host, {}) == {}


def test_strict_opens_only_what_fits_and_names_who_holds_the_host() -> None:
    world = World(replace(STRICT, total=Vector(4000, 8 * GIB)))
    world.set_cluster(cluster("c1", SMALL, high=2))
    world.set_cluster(cluster("c2", LARGE, high=1))
    world.queue(job("a"))
    world.settle()
    world.queue(job("big", "c2", submitted_at=1))
    (wait,) = world.decide()
    assert wait.code == "Waiting.HostFull"
    assert wait.sentence == (
        "This host has no room for another node of c2-cluster (4 vCPU, 8 GiB); free are 2 vCPU and 4 GiB: "
        "c1-cluster holds 1 node of 2 vCPU, 4 GiB."
    )
    world.queue(job("later", "c1", submitted_at=2))
    assert of(world.decide(), t.OpenNode) == []  # the room is kept for the one that came first
    world.release("a")
    decisions = world.decide()  # and the idle node is given up for it
    assert [d.code for d in of(decisions, t.CloseNode)] == ["NodeClosing.Reclaimed"]
    world.settle()
    assert list(world.running) == ["big"]


def test_what_others_hold_is_named_within_one_workspace_only() -> None:
    """Names of jobs and computes of one team do not reach another by a sentence."""
    world = World(replace(STRICT, total=Vector(4000, 8 * GIB)))
    elsewhere = Scope("sub", "rg", "secret")
    world.set_cluster(cluster("c1", SMALL, high=2))
    world.set_cluster(cluster("c2", LARGE, high=1, workspace=elsewhere))
    world.queue(job("a"))
    world.settle()
    world.queue(job("big", "c2", submitted_at=1, workspace=elsewhere))
    (wait,) = world.decide()
    assert wait.sentence.endswith("free are 2 vCPU and 4 GiB: other workspaces hold 1 node of 2 vCPU, 4 GiB.")
    world.release("a")
    (closed,) = of(world.decide(), t.CloseNode)
    assert closed.code == "NodeClosing.Reclaimed"
    assert closed.sentence == (
        "Idle for 0 s, and a job of another workspace, which goes first, needs its room on this host."
    )


def test_other_workspaces_are_summed_up_by_size() -> None:
    world = World(STRICT)
    for uid, node in (("c1", SMALL), ("c2", SMALL), ("c3", LARGE)):
        elsewhere = Scope("sub", "rg", uid)
        world.set_cluster(cluster(uid, node, high=1, workspace=elsewhere))
        world.queue(job(f"of-{uid}", uid, workspace=elsewhere))
    world.settle()
    world.set_cluster(cluster("c4", LARGE, high=1))
    world.queue(job("mine", "c4"))
    (wait,) = world.decide()
    assert wait.sentence.endswith(
        ": other workspaces hold 2 nodes of 2 vCPU, 4 GiB; 1 node of 4 vCPU, 8 GiB."
    )


def test_gpus_are_allotted_exactly_and_waited_for() -> None:
    world = World()
    world.set_cluster(cluster("c1", GPU, high=2))
    world.set_cluster(cluster("c2", replace(GPU, gpus=2), high=1))
    world.queue(job("a"))
    world.settle()
    assert [node.gpu_ids for node in world.nodes.values()] == [("gpu0",)]
    world.queue(job("b", "c2", submitted_at=1))
    (wait,) = world.decide()
    assert wait.code == "Waiting.GpusInUse"
    assert wait.sentence == (
        "Each node of c2-cluster needs 2 GPUs of its own; 1 of this host's 2 are free: "
        "c1-cluster holds 1 node of 2 vCPU, 4 GiB, 1 GPU."
    )
    world.release("a")
    world.settle()
    assert world.running["b"][2]
    assert [node.gpu_ids for node in world.nodes.values()] == [("gpu0", "gpu1")]


def test_a_gpu_job_on_a_host_without_waits_with_the_reason() -> None:
    world = World(replace(ELASTIC, gpu_ids=()))
    world.set_cluster(cluster("c1", GPU))
    world.queue(job("a"))
    (wait,) = world.decide()
    assert wait.code == "Waiting.GpusMissing"
    assert "this host has none" in wait.sentence
    world.set_host(ELASTIC)
    world.settle()
    assert "a" in world.running
