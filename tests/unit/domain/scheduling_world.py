"""A model of the world around the scheduler for tests: keeps its own books, checks every answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tidemill.domain.admission import admit
from tidemill.domain.model import NodeState, Scope, Vector
from tidemill.domain.quota import NO_QUOTAS, Key, Quotas
from tidemill.domain.scheduling import oracle
from tidemill.domain.scheduling import types as t
from tidemill.domain.scheduling.pool import PoolState

GIB = 1 << 30
SECOND = 1_000_000
WS = Scope("sub", "rg", "main")
SMALL = Vector(2000, 4 * GIB)
LARGE = Vector(4000, 8 * GIB)
GPU = Vector(2000, 4 * GIB, 1)
ELASTIC = t.Host(Vector(4000, 16 * GIB), ("gpu0", "gpu1"))
STRICT = t.Host(Vector(10000, 24 * GIB), ("gpu0", "gpu1"), "strict")


def cluster(
    uid: str = "c1", node: Vector = SMALL, low: int = 0, high: int = 2, **more: object
) -> t.ClusterSpec:
    spec = t.ClusterSpec(uid, f"{uid}-cluster", WS, "S2", node, low, high, 10 * SECOND)
    return replace(spec, **more)  # type: ignore[arg-type]


def job(uid: str, cluster_uid: str = "c1", nodes: int = 1, **more: object) -> t.JobRequest:
    request = t.JobRequest(uid, f"job-{uid}", WS, "team", cluster_uid, nodes, 0, 0)
    return replace(request, **more)  # type: ignore[arg-type]


@dataclass
class World:
    """Feeds a PoolState; holds what is true outside it."""

    host: t.Host = ELASTIC
    half_life_us: int = 60 * SECOND
    quotas: Quotas = NO_QUOTAS
    now: int = 1_000 * SECOND
    clusters: dict[str, t.ClusterSpec] = field(default_factory=dict)
    waiting: dict[str, t.JobRequest] = field(default_factory=dict)
    running: dict[str, tuple[t.JobRequest, int, tuple[str, ...]]] = field(default_factory=dict)
    nodes: dict[str, t.NodeView] = field(default_factory=dict)
    pending: list[t.OpenNode] = field(default_factory=list)
    made: int = 0
    told: dict[str, t.Wait] = field(default_factory=dict)
    started: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool = PoolState(self.host, self.half_life_us, self.quotas)

    # -------------------------------------------------------- what happens

    def set_host(self, host: t.Host) -> None:
        self.host = host
        self.pool.apply(t.HostSet(host, self.now))

    def set_quotas(self, **limits: dict[str, int]) -> None:
        """`{"team red": {"cores": 4}}` in place of all before; weights stay."""
        keys = {(*subject.split(), m): n for subject, ms in limits.items() for m, n in ms.items()}
        self.quotas = replace(self.quotas, limits=keys)
        self.pool.apply(t.QuotasSet(self.quotas, self.now))

    def set_cluster(self, spec: t.ClusterSpec) -> None:
        self.clusters[spec.uid] = spec
        self.pool.apply(t.ClusterSet(spec, self.now))

    def queue(self, *jobs: t.JobRequest) -> None:
        for each in jobs:
            self.waiting[each.uid] = each
            self.pool.apply(t.JobQueued(each, self.now))

    def cancel(self, uid: str) -> None:
        self.waiting.pop(uid, None)
        self.pool.apply(t.JobGone(uid, self.now))

    def release(self, uid: str) -> t.JobRequest:
        request, _, node_ids = self.running.pop(uid)
        for node_id in node_ids:
            node = self.nodes.get(node_id)
            if node is None or node.job_uid != uid:
                continue
            if node.state is NodeState.RUNNING:
                self.nodes[node_id] = replace(node, state=NodeState.IDLE, job_uid="", since=self.now)
            else:
                self.nodes[node_id] = replace(node, job_uid="")
        self.pool.apply(t.JobReleased(uid, self.now))
        return request

    def open_one(self, index: int = 0) -> str:
        opened = self.pending.pop(index)
        self.made += 1
        node_id = f"n{self.made:03d}"
        node = t.NodeView(
            node_id, opened.cluster_uid, NodeState.OPENING, opened.granted, opened.gpu_ids, "", self.now
        )
        self.nodes[node_id] = node
        self.pool.apply(t.NodeOpened(node, self.now))
        return node_id

    def ready(self, node_id: str) -> None:
        self._to(node_id, NodeState.IDLE)
        self.pool.apply(t.NodeReady(node_id, self.now))

    def used(self, node_id: str) -> None:
        """Somebody works on it: of an idle node, its idle time begins anew."""
        if self.nodes[node_id].state is NodeState.IDLE:
            self._to(node_id, NodeState.IDLE)
        self.pool.apply(t.NodeUsed(node_id, self.now))

    def lost(self, node_id: str) -> None:
        self._to(node_id, NodeState.LOST)
        self.pool.apply(t.NodeLost(node_id, self.now))

    def gone(self, node_id: str) -> None:
        del self.nodes[node_id]
        self.pool.apply(t.NodeGone(node_id, self.now))

    def not_done(self, decision: t.OpenNode | t.CloseNode | t.Assign) -> None:
        if isinstance(decision, t.OpenNode):
            self.pending.remove(decision)
        elif isinstance(decision, t.CloseNode):
            self._to(decision.node_id, NodeState.IDLE)
        else:
            request, _, node_ids = self.running.pop(decision.job_uid)
            self.waiting[decision.job_uid] = request
            for node_id in node_ids:
                node = self.nodes[node_id]
                self.nodes[node_id] = replace(node, state=NodeState.IDLE, job_uid="", since=self.now)
        self.pool.apply(t.NotDone(decision, self.now))

    def _to(self, node_id: str, state: NodeState) -> None:
        self.nodes[node_id] = replace(self.nodes[node_id], state=state, since=self.now)

    # -------------------------------------------------------- ask and check

    def snapshot(self) -> t.Snapshot:
        return t.Snapshot(
            self.host,
            dict(self.clusters),
            tuple(self.waiting.values()),
            tuple((request, at) for request, at, _ in self.running.values()),
            tuple(self.nodes.values()),
            tuple(self.pending),
            dict(self.pool._track.shares.teams.usages),
            dict(self.pool._track.shares.users.usages),
            self.quotas,
            self.half_life_us,
        )

    def decide(self) -> list[t.Decision]:
        """Asks the scheduler and the oracle, compares, checks the invariants, takes the decisions as done."""
        expected = oracle.decide(self.snapshot(), self.now)
        decisions = self.pool.decide(self.now)
        assigns = [d for d in decisions if isinstance(d, t.Assign)]
        closes = [d for d in decisions if isinstance(d, t.CloseNode)]
        opens = [d for d in decisions if isinstance(d, t.OpenNode)]
        assert sorted(assigns, key=of_job) == sorted(expected.assigns, key=of_job)
        assert sorted(closes, key=of_node) == sorted(expected.closes, key=of_node)
        assert opens == expected.opens
        before = self._held()
        for decision in decisions:
            self._take(decision)
        for key, held in self._held().items():
            limit = self.quotas.limit(key)
            assert limit is None or held <= max(limit, before.get(key, 0)), (key, held, limit)
        self._check()
        return decisions

    def _take(self, decision: t.Decision) -> None:
        if isinstance(decision, t.Assign):
            request = self.waiting.pop(decision.job_uid)
            assert len(decision.node_ids) == request.node_count == len(set(decision.node_ids))
            for node_id, gpu_ids in zip(decision.node_ids, decision.gpu_ids, strict=True):
                node = self.nodes[node_id]
                assert node.state is NodeState.IDLE
                assert node.cluster_uid == request.cluster_uid
                assert node.gpu_ids == gpu_ids
                assert len(gpu_ids) == self.clusters[node.cluster_uid].node.gpus
                self.nodes[node_id] = replace(
                    node, state=NodeState.RUNNING, job_uid=request.uid, since=self.now
                )
            self.running[request.uid] = (request, self.now, decision.node_ids)
            self.started[request.uid] = self.now
        elif isinstance(decision, t.CloseNode):
            node = self.nodes[decision.node_id]
            spec = self.clusters[node.cluster_uid]
            assert spec.deleting or node.state is NodeState.IDLE
            left = [
                n
                for n in self.nodes.values()
                if n.cluster_uid == spec.uid
                and n.state in (NodeState.IDLE, NodeState.OPENING, NodeState.RUNNING)
                and n.id != node.id
            ]
            pending = sum(p.cluster_uid == spec.uid for p in self.pending)
            assert spec.deleting or len(left) + pending >= min(spec.min_nodes, spec.max_nodes)
            self._to(decision.node_id, NodeState.CLOSING)
        elif isinstance(decision, t.OpenNode):
            self.pending.append(decision)
            live = [n for n in self.nodes.values() if n.cluster_uid == decision.cluster_uid]
            pending = [p for p in self.pending if p.cluster_uid == decision.cluster_uid]
            assert len(live) + len(pending) <= self.clusters[decision.cluster_uid].max_nodes
            assert not self.clusters[decision.cluster_uid].deleting
        elif isinstance(decision, t.EndJob):
            assert self.clusters_of(decision.job_uid).deleting
            if not decision.running:
                del self.waiting[decision.job_uid]
        else:
            assert decision.job_uid in self.waiting
            assert decision.sentence
            before = self.told.get(decision.job_uid)
            assert before is None or before.code != decision.code or decision.job_uid in self.started
            self.told[decision.job_uid] = decision

    def _held(self) -> dict[Key, int]:
        return oracle._Books(self.snapshot()).held

    def clusters_of(self, uid: str) -> t.ClusterSpec:
        request = self.waiting[uid] if uid in self.waiting else self.running[uid][0]
        return self.clusters[request.cluster_uid]

    def _check(self) -> None:
        held = [*self.nodes.values(), *self.pending]
        gpu_ids = [gpu for node in held for gpu in node.gpu_ids]
        assert len(gpu_ids) == len(set(gpu_ids)), "a GPU is held twice"
        busy = [n.id for n in self.nodes.values() if n.state is NodeState.RUNNING]
        of_jobs = [n for _, _, ids in self.running.values() for n in ids if n in busy]
        assert sorted(of_jobs) == sorted(busy), "a node runs two jobs, or none"
        if self.host.strict and not self.was_elastic:
            assert sum(n.granted.cpu_milli for n in held) <= self.host.total.cpu_milli
            assert sum(n.granted.memory for n in held) <= self.host.total.memory
        for uid in self.waiting:
            wait = self.pool.explain(uid, self.now)
            assert wait is not None
            assert wait.sentence[-1] == ".", wait
            refusal = self.refusal(self.waiting[uid])
            parked = wait.code in (
                "Waiting.GangTooLarge",
                "Waiting.GpusMissing",
                "Waiting.HostTooSmall",
                "Waiting.QuotaExceeded",
            )
            assert wait.code == f"Waiting.{refusal}" if refusal else not parked, (wait, refusal)
        assert set(self.pool.grants()) >= set(self.nodes)

    was_elastic: bool = False

    def refusal(self, request: t.JobRequest) -> str | None:
        spec = self.clusters.get(request.cluster_uid)
        if spec is None or spec.deleting:
            return None
        found = admit(request, spec, self.host, oracle._held_by_others(self.snapshot(), spec.uid))
        competes = self.host.strict or spec.node.gpus
        found = found if competes else admit(request, spec, self.host)
        if found is None and oracle.quota_for_ever(self.snapshot(), request, spec):
            return "QuotaExceeded"
        return found.code if found else None

    # -------------------------------------------------------- shortcuts

    def settle(self, steps: int = 50) -> None:
        """Opens and closes whatever is decided until nothing more is."""
        for _ in range(steps):
            acted = bool(self.decide())
            while self.pending:
                self.ready(self.open_one())
                acted = True
            for node in [n for n in self.nodes.values() if n.state is NodeState.CLOSING and not n.job_uid]:
                self.gone(node.id)
                acted = True
            if not acted:
                return
        raise AssertionError("it does not settle")


def of_job(decision: t.Assign) -> str:
    return decision.job_uid


def of_node(decision: t.CloseNode) -> tuple[str, str]:
    return decision.node_id, decision.code


def of(decisions: list[t.Decision], kind: type) -> list:
    return [decision for decision in decisions if isinstance(decision, kind)]


def with_nodes(world: World, count: int, uid: str = "c1") -> None:
    """Opens idle nodes by asking for a minimum for a moment."""
    spec = world.clusters[uid]
    world.set_cluster(replace(spec, min_nodes=count))
    world.settle()
    world.set_cluster(spec)
    assert sum(node.cluster_uid == uid for node in world.nodes.values()) == count
