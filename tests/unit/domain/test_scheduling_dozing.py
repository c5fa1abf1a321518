"""Very many clusters for one purpose each: all jobs start, in order, at a cost that does not grow."""

from __future__ import annotations

import random

import pytest

from tidemill.domain.model import NodeState, Scope, Vector
from tidemill.domain.quota import COMPUTE, NODES, USER, Quotas
from tidemill.domain.scheduling import planner
from tidemill.domain.scheduling import types as t
from tidemill.domain.scheduling.dozing import MOST
from tidemill.domain.scheduling.pool import PoolState

WS = Scope("s", "g", "w")
SIZE = Vector(1000, 1 << 30)
QUOTA = (COMPUTE, f"{WS.arm_id.lower()}/computes/serverless", NODES)
SECOND = 1_000_000


class Alone:
    """A pool of jobs with a node of their own each; `begun` in the order they started."""

    def __init__(self, quotas: Quotas, host: t.Host | None = None) -> None:
        self.pool = PoolState(host or t.Host(Vector(8000, 64 << 30)), quotas=quotas)
        self.now, self.begun, self.count = 0, list[str](), 0
        self.jobs: dict[str, t.JobRequest] = {}

    def submit(self, user: str = "ann", priority: int = 2, size: Vector = SIZE) -> str:
        name = f"{len(self.jobs):04d}"
        spec = t.ClusterSpec(f"c{name}", "serverless", WS, "S", size, 0, 1, 0, purpose=f"job {name!r}")
        self.jobs[name] = t.JobRequest(name, name, WS, user, spec.uid, 1, priority, self.now, user=user)
        self.pool.apply(t.ClusterSet(spec, self.now))
        self.pool.apply(t.JobQueued(self.jobs[name], self.now))
        return name

    def step(self) -> list[str]:
        """Decides until nothing changes; nodes open at once. -> who started."""
        started: list[str] = []
        while decisions := [d for d in self.pool.decide(self.now) if not isinstance(d, t.Wait)]:
            for decision in decisions:
                if isinstance(decision, t.OpenNode):
                    self.count += 1
                    node = t.NodeView(
                        f"n{self.count}", decision.cluster_uid, NodeState.IDLE, decision.granted
                    )
                    self.pool.apply(t.NodeOpened(node, self.now))
                elif isinstance(decision, t.Assign):
                    started.append(decision.job_uid)
                elif isinstance(decision, t.CloseNode):
                    self.pool.apply(t.NodeGone(decision.node_id, self.now))
        self.begun += started
        return started

    def end(self, job: str) -> None:
        self.now += SECOND
        self.pool.apply(t.JobReleased(job, self.now))


@pytest.mark.parametrize("seed", range(5))
def test_all_start_in_the_order_of_priority_and_age(seed: int):
    chance = random.Random(seed)
    alone = Alone(Quotas({QUOTA: 3}))
    for _ in range(80):
        alone.submit(chance.choice(("ann", "ben", "eve")), chance.choice((1, 2, 2, 3)))
    running = alone.step()
    assert len(running) == 3
    while running:
        alone.end(running.pop(chance.randrange(len(running))))
        running += alone.step()
        assert len(running) <= 3
    assert sorted(alone.begun) == sorted(alone.jobs)
    started = [alone.jobs[name] for name in alone.begun]
    assert [job.priority for job in started] == sorted((job.priority for job in started), reverse=True)
    for user in ("ann", "ben", "eve"):
        mine = [job for job in started if job.user == user]
        assert mine == sorted(mine, key=lambda job: (-job.priority, job.submitted_at, job.uid))


def test_a_later_job_of_higher_priority_goes_first():
    alone = Alone(Quotas({QUOTA: 1}))
    for _ in range(50):
        alone.submit()
    (first,) = alone.step()
    urgent = alone.submit(priority=3)
    alone.step()
    alone.end(first)
    assert alone.step() == [urgent]


def test_users_take_turns_however_many_one_of_them_has():
    alone = Alone(Quotas({QUOTA: 2}))
    for _ in range(40):
        alone.submit("ann")
    running = alone.step()
    alone.submit("ben")
    alone.step()
    alone.end(running[0])
    assert [alone.jobs[name].user for name in alone.step()] == ["ben"]


@pytest.mark.parametrize("quotas", [Quotas({QUOTA: 2}), Quotas({(USER, "ann", NODES): 2})])
def test_a_decision_looks_at_few_of_them(quotas: Quotas, monkeypatch: pytest.MonkeyPatch):
    alone = Alone(quotas)
    for _ in range(300):
        alone.submit()
        alone.step()
    assert len(alone.begun) == 2
    looked: list[str] = []
    begin = planner.begin
    monkeypatch.setattr(planner, "begin", lambda state: looked.append(state.uid) or begin(state))
    alone.end(alone.begun[0])
    assert alone.step() == ["0002"]
    assert len(looked) <= 4 * (MOST + 2)


def test_on_a_strict_host_it_is_the_room_that_counts():
    alone = Alone(Quotas(), t.Host(Vector(2000, 64 << 30), mode="strict"))
    for _ in range(30):
        alone.submit()
    running = alone.step()
    assert len(running) == 2
    while running:
        alone.end(running.pop(0))
        running += alone.step()
    assert len(alone.begun) == 30


def test_raising_the_limit_wakes_them():
    alone = Alone(Quotas({QUOTA: 1}))
    for _ in range(30):
        alone.submit()
    alone.step()
    alone.pool.apply(t.QuotasSet(Quotas({QUOTA: 20}), alone.now))
    assert len(alone.step()) == 19
