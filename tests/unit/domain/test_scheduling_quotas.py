"""Shares and quotas of teams and users, on a virtual clock. Every `World.decide` is compared with the oracle
and checked: nothing is ever given above a limit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scheduling_world import GPU, SECOND, SMALL, STRICT, WS, World, cluster, job

from tidemill.domain.model import NodeState, Scope, Vector
from tidemill.domain.quota import Equation, Quotas, amounts, measured, never_sentence, waits_sentence
from tidemill.domain.scheduling import types as t
from tidemill.domain.scheduling.pool import PoolState

HERE = WS.arm_id.lower()


def world_with(nodes: int, uid: str = "c1", node: Vector = SMALL, **limits: dict[str, int]) -> World:
    """A cluster of so many idle nodes."""
    world = World()
    spec = cluster(uid, node, nodes, nodes, family="famA")
    world.set_cluster(spec)
    world.settle()
    world.set_cluster(replace(spec, min_nodes=0))
    world.set_quotas(**limits)
    return world


def why(world: World, uid: str) -> tuple[str, str]:
    wait = world.pool.explain(uid, world.now)
    assert wait is not None
    return wait.code, wait.sentence


def test_inside_a_team_the_users_share() -> None:
    world = world_with(4)
    world.queue(*(job(f"a{n}", user="ann", submitted_at=n) for n in range(6)))
    world.queue(*(job(f"b{n}", user="bob", submitted_at=100 + n) for n in range(6)))
    world.decide()
    assert sorted(world.running) == ["a0", "a1", "b0", "b1"]


def test_teams_share_first_however_many_users_they_have() -> None:
    world = world_with(4)
    for user in ("ann", "bob", "cid"):
        world.queue(*(job(f"{user}{n}", team="big", user=user, submitted_at=n) for n in range(4)))
    world.queue(*(job(f"solo{n}", team="solo", user="solo", submitted_at=100 + n) for n in range(4)))
    world.decide()
    assert sum(uid.startswith("solo") for uid in world.running) == 2


def test_the_weight_of_a_user_holds_inside_the_team() -> None:
    world = world_with(6)
    world.quotas = Quotas({}, {}, {"ann": 2.0})
    world.pool.apply(t.QuotasSet(world.quotas, world.now))
    for user in ("ann", "bob"):
        world.queue(*(job(f"{user}{n}", user=user, submitted_at=n) for n in range(6)))
    world.decide()
    assert sum(uid.startswith("ann") for uid in world.running) == 4


@pytest.mark.parametrize(
    ("subject", "limits", "started", "equation"),
    [
        ("user ann", {"cores": 4}, 2, "4 used + 2 asked = 6, limit 4 cores"),
        ("user ann", {"jobs": 3}, 3, "3 used + 1 asked = 4, limit 3 jobs"),
        ("user *", {"nodes": 1}, 1, "1 used + 1 asked = 2, limit 1 node"),
        ("team team", {"famA": 6}, 3, "6 used + 2 asked = 8, limit 6 vCPU of famA"),
        ("team *", {"cores": 5}, 2, "4 used + 2 asked = 6, limit 5 cores"),
        (f"compute {HERE}/computes/c1-cluster", {"jobs": 1}, 1, "1 used + 1 asked = 2, limit 1 job"),
        (f"workspace {HERE}", {"jobs": 2}, 2, "2 used + 1 asked = 3, limit 2 jobs"),
    ],
)
def test_a_quota_is_never_passed_and_the_wait_says_the_equation(
    subject: str, limits: dict[str, int], started: int, equation: str
) -> None:
    world = world_with(4, **{subject: limits})
    world.queue(*(job(f"j{n}", user="ann", submitted_at=n) for n in range(6)))
    world.settle()
    assert len(world.running) == started
    code, sentence = why(world, f"j{started}")
    assert code == "Waiting.Quota"
    assert equation in sentence, sentence
    assert "must be given back first." in sentence
    for uid in sorted(world.running):
        world.release(uid)
    world.decide()
    assert len(world.running) == min(started, 6 - started), "what was given back is given again"


def test_a_quota_holds_up_nobody_else() -> None:
    world = world_with(4, **{"user ann": {"nodes": 1}})
    world.queue(*(job(f"a{n}", user="ann", submitted_at=n) for n in range(6)))
    world.queue(job("late", user="bob", submitted_at=100), job("other", team="x", user="x", submitted_at=200))
    world.decide()
    assert sorted(world.running) == ["a0", "late", "other"]


def test_a_gang_over_its_quota_reserves_no_nodes() -> None:
    world = world_with(4, **{"user ann": {"nodes": 3}})
    world.queue(
        job("a0", user="ann", nodes=2, submitted_at=0), job("a1", user="ann", nodes=3, submitted_at=1)
    )
    world.queue(job("b0", user="bob", nodes=2, submitted_at=2))
    world.decide()
    assert sorted(world.running) == ["a0", "b0"]
    assert why(world, "a1")[0] == "Waiting.Quota"


def test_what_a_job_waits_for_is_kept_from_its_own_party_on_other_computes() -> None:
    """Else small jobs elsewhere would keep a larger one from its team's quota for ever."""
    world = world_with(2, **{"team team": {"nodes": 3}})
    spec = cluster("c0", SMALL, 4, 4)
    world.set_cluster(spec)
    world.settle()
    world.set_cluster(replace(spec, min_nodes=0))
    world.queue(job("big0", nodes=2, submitted_at=0))
    world.decide()
    world.queue(job("big1", "c0", nodes=2, submitted_at=1))
    world.decide()
    world.release("big0")
    world.queue(job("x", submitted_at=2), job("y", submitted_at=3))
    world.decide()
    assert sorted(world.running) == ["big1", "x"]
    world.queue(job("big2", "c0", nodes=2, submitted_at=4, priority=1))
    world.release("x")
    world.decide()
    assert sorted(world.running) == ["big1"], "one node is left, and kept for big2"
    code, sentence = why(world, "y")
    assert code == "Waiting.Quota", sentence
    world.release("big1")
    world.decide()
    assert sorted(world.running) == ["big2", "y"]


def test_gpus_are_counted_where_they_are_asked_for() -> None:
    world = world_with(2, "gpu", GPU, **{"user ann": {"gpus": 1}})
    world.set_cluster(cluster("c1", SMALL, 0, 2))
    world.queue(*(job(f"g{n}", "gpu", user="ann", submitted_at=n) for n in range(2)))
    world.queue(job("cpu", user="ann", submitted_at=9))
    world.settle()
    assert sorted(world.running) == ["cpu", "g0"]


def test_a_workspace_s_nodes_are_counted_idle_ones_too_and_taken_back_for_who_goes_first() -> None:
    world = world_with(2, **{f"workspace {HERE}": {"cores": 4}})
    world.set_cluster(cluster("c2", SMALL, 0, 2))
    world.queue(job("j", "c2", submitted_at=0))
    decisions = world.decide()
    closes = [d for d in decisions if isinstance(d, t.CloseNode)]
    assert [d.code for d in closes] == ["NodeClosing.Reclaimed"]
    assert not [d for d in decisions if isinstance(d, t.OpenNode)]
    assert why(world, "j")[1] == (
        "Waits for the quota of workspace 'main': 4 used + 2 asked = 6, limit 4 cores: "
        "2 cores must be given back first."
    )
    world.settle()
    assert sorted(world.running) == ["j"]


def test_who_waits_for_the_host_keeps_its_part_of_the_quota() -> None:
    """Else a later job's node would be opened, and closed for the quota of the first before it is used."""
    world = World(STRICT)
    world.set_cluster(cluster("c1", SMALL, 0, 4))
    world.set_cluster(cluster("c3", GPU, 0, 4, priority=1))
    world.set_quotas(**{f"workspace {HERE}": {"cores": 8}})
    world.queue(*(job(f"gpu{n}", "c3", priority=1) for n in range(2)), job("cpu0"))
    world.settle()
    assert sorted(world.running) == ["cpu0", "gpu0", "gpu1"]
    world.queue(job("gpu2", "c3", priority=1), job("cpu1"))
    world.settle()
    assert sorted(world.running) == ["cpu0", "gpu0", "gpu1"]
    assert len(world.nodes) == 3
    assert why(world, "gpu2")[0] in ("Waiting.GpusInUse", "Waiting.HostFull")
    code, sentence = why(world, "cpu1")
    assert code == "Waiting.Quota"
    assert "6 used + 2 kept for jobs that go first + 2 asked = 10, limit 8 cores" in sentence
    world.release("gpu0")
    world.settle()
    world.release("cpu0")
    world.settle()
    assert sorted(world.running) == ["cpu1", "gpu1", "gpu2"]


def test_another_workspace_s_quota_does_not_count() -> None:
    world = world_with(2, **{f"workspace {HERE}": {"nodes": 2}})
    world.set_cluster(cluster("c2", SMALL, 0, 2, workspace=Scope("sub", "rg", "other")))
    world.queue(job("j", "c2"))
    world.settle()
    assert sorted(world.running) == ["j"]


def test_minimum_nodes_stay_within_the_quota() -> None:
    world = World()
    world.set_quotas(**{f"compute {HERE}/computes/c1-cluster": {"nodes": 2}})
    world.set_cluster(cluster("c1", SMALL, 3, 3))
    world.settle()
    assert len(world.nodes) == 2
    world.set_quotas()
    world.settle()
    assert len(world.nodes) == 3


def test_a_changed_quota_takes_effect_at_once() -> None:
    world = world_with(4, **{"user ann": {"jobs": 1}})
    world.queue(*(job(f"j{n}", user="ann", submitted_at=n) for n in range(4)))
    world.decide()
    assert len(world.running) == 1
    world.set_quotas(**{"user ann": {"jobs": 3}})
    world.decide()
    assert len(world.running) == 3
    world.set_quotas(**{"user ann": {"jobs": 1}})
    world.decide()
    assert len(world.running) == 3, "lowering ends nothing"
    for uid in ("j0", "j1"):
        world.release(uid)
        world.decide()
    assert sorted(world.running) == ["j2"], "and starts nothing before it is below"
    world.set_quotas()
    world.decide()
    assert sorted(world.running) == ["j2", "j3"]


def test_what_can_never_fit_its_quota_is_parked_with_the_equation_and_comes_back() -> None:
    world = world_with(4, **{"team team": {"cores": 4}})
    world.queue(job("big", nodes=3, submitted_at=0), job("small", submitted_at=1))
    world.decide()
    assert sorted(world.running) == ["small"], "it holds up nobody"
    assert why(world, "big") == (
        "Waiting.QuotaExceeded",
        "Job 'job-big' can never start: the quota of team 'team' does not allow it. "
        "0 used + 6 asked = 6, limit 4 cores. Ask for fewer nodes or a smaller size, or have the quota "
        "raised: tidemill quota set --team team --cores N.",
    )
    world.set_quotas(**{"team team": {"cores": 8}})
    world.settle()
    assert sorted(world.running) == ["big", "small"]


def test_on_a_strict_host_quotas_and_room_both_hold() -> None:
    world = World(STRICT)
    world.set_cluster(cluster("c1", SMALL, 0, 9))
    world.set_quotas(**{"user ann": {"nodes": 2}})
    world.queue(*(job(f"a{n}", user="ann", submitted_at=n) for n in range(9)))
    world.queue(*(job(f"b{n}", user="bob", submitted_at=n) for n in range(9)))
    world.settle()
    assert len([uid for uid in world.running if uid.startswith("a")]) == 2
    assert len([uid for uid in world.running if uid.startswith("b")]) == 3


def test_ten_thousand_jobs_of_one_user_delay_another_team_by_no_more_than_its_share() -> None:
    """Jobs of 60 s on 4 nodes; 10,000 of one user wait. A job of another team, submitted after them, has the
    next node that comes free, and with ten of them that team has half of all starts."""
    pool, now = PoolState(t.Host(Vector(8000, 64 << 30))), 0
    pool.apply(t.ClusterSet(cluster("c1", SMALL, 4, 4)))
    for index, opened in enumerate([d for d in pool.decide(now) if isinstance(d, t.OpenNode)]):
        pool.apply(t.NodeOpened(t.NodeView(f"n{index}", "c1", NodeState.OPENING, opened.granted), now))
        pool.apply(t.NodeReady(f"n{index}", now))
    for number in range(10_000):
        pool.apply(t.JobQueued(job(f"f{number:05d}", team="flood", user="eve", submitted_at=number), now))
    ends = [(60 * SECOND + n * 15 * SECOND, d.job_uid) for n, d in enumerate(starts(pool, now))]
    started: list[tuple[int, str]] = []
    for turn in range(200):
        ends.sort()
        now, ended = ends.pop(0)
        if turn == 100:
            for number in range(10):
                pool.apply(t.JobQueued(job(f"q{number}", team="quiet", user="ann", submitted_at=now), now))
        pool.apply(t.JobReleased(ended, now))
        for decision in starts(pool, now):
            started.append((now, decision.job_uid))
            ends.append((now + 60 * SECOND, decision.job_uid))
    quiet = [at for at, uid in started if uid.startswith("q")]
    asked = started[100][0]
    assert quiet[0] == asked, "the first one has the very next node"
    assert len(quiet) == 10
    before = [uid for at, uid in started if asked <= at <= quiet[-1]]
    assert len(before) <= 20, "at least every second start is the other team's"


def test_the_cost_of_a_decision_does_not_grow_with_the_jobs_over_a_quota() -> None:
    """Counted, not timed: how many jobs of the queue a decision looks at."""
    looked: list[int] = []
    for waiting in (100, 5_000):
        world = World()
        world.set_cluster(cluster("c1", SMALL, 2, 2))
        world.settle()
        world.set_quotas(**{"user ann": {"jobs": 1}})
        pool = world.pool
        for number in range(waiting):
            pool.apply(t.JobQueued(job(f"j{number:05d}", user="ann", submitted_at=number), world.now))
        pool.decide(world.now)
        jobs = Counted(pool._track.clusters["c1"].queue.jobs)
        pool._track.clusters["c1"].queue.jobs = jobs
        pool.apply(t.JobReleased("j00000", world.now))
        assert len(starts(pool, world.now)) == 1
        looked.append(jobs.count)
    assert looked[0] == looked[1] < 20


class Counted(dict):
    count = 0

    def __getitem__(self, key: str) -> t.JobRequest:
        self.count += 1
        return super().__getitem__(key)


def starts(pool: PoolState, now: int) -> list[t.Assign]:
    return [d for d in pool.decide(now) if isinstance(d, t.Assign)]


# ---------------------------------------------------------------- words and sums


def test_the_queue_s_times_go_by_estimates_and_by_limits_once_those_have_passed() -> None:
    world = World()
    world.set_cluster(cluster(high=1))
    world.queue(job("runs", estimated_us=100 * SECOND))
    world.decide()
    world.ready(world.open_one())
    world.decide()
    world.queue(job("b", submitted_at=1), job("c", submitted_at=2))
    world.decide()
    began = world.now

    def starts() -> list[int | None]:
        found = world.pool.queue("c1", world.now, 10, lambda job: 5 * SECOND)
        return [None if one.expected_at is None else (one.expected_at - began) // SECOND for one in found]

    assert starts() == [5, 10]
    world.now += 6 * SECOND
    assert starts() == [100, 105], "it has run longer than the others did: its limit holds"
    world.now = began + 100 * SECOND
    assert starts() == [None, None]


def test_amounts_are_exact_and_empty_ones_left_out() -> None:
    assert amounts(Vector(2500, 1, 0), "famA", 3) == (("cores", 7500), ("nodes", 3), ("famA", 7500))
    assert amounts(Vector(1000, 1, 2), "", 1) == (("cores", 1000), ("gpus", 2), ("nodes", 1))


def test_measures_read_well() -> None:
    assert measured("cores", 2500) == "2.5 cores"
    assert measured("gpus", 1) == "1 GPU"
    assert measured("nodes", 3) == "3 nodes"
    assert measured("standardDSv2Family", 4000) == "4 vCPU of standardDSv2Family"


def test_sentences_name_the_group_by_its_name_and_the_fix() -> None:
    quotas = Quotas({}, names={("team", "0f3a"): "vision"})
    equation = Equation(("team", "0f3a", "standardDSv2Family"), 8000, 0, 12000)
    assert "tidemill quota set --team vision --family standardDSv2Family=N" in never_sentence(
        "j", quotas, equation
    )
    waits = Equation(("team", "0f3a", "cores"), 8000, 2000, 4000, 4000)
    assert waits_sentence(quotas, waits) == (
        "Waits for the quota of team 'vision': 2 used + 4 kept for jobs that go first + 4 asked = 10, "
        "limit 8 cores: 2 cores must be given back first."
    )
