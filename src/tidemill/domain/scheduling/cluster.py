"""What the scheduler keeps of one cluster between decisions: nodes by state, queue, running jobs."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.domain.admission import Refusal
from tidemill.domain.autoscale import Fleet
from tidemill.domain.model import NodeState
from tidemill.domain.quota import Amounts, Equation
from tidemill.domain.scheduling.queue import JobQueue
from tidemill.domain.scheduling.types import ClusterSpec, JobRequest, NodeView, OpenNode, Party


@dataclass(slots=True)
class Run:
    """A job on its nodes since `at`; `rate` and `amounts` are what it counts for its team and its user."""

    job: JobRequest
    nodes: tuple[str, ...]
    at: int
    rate: int
    amounts: Amounts = ()


@dataclass(slots=True)
class LastPlan:
    """What the last decision left waiting, for `explain`. `opening`: jobs that have nodes on the way;
    `opening_first`: so many from the front have, none named (only single-node jobs wait)."""

    opening: frozenset[str] = frozenset()
    opening_first: int = 0
    host_blocked: str = ""  # the job for which the host has no room
    quota_blocked: tuple[str, Equation] | None = None
    """The job that a quota of the compute or the workspace holds up, and what it came up against."""
    left: Mapping[Party, tuple[str, Equation]] = field(default_factory=dict[Party, tuple[str, Equation]])
    """Parties (ANY user: whole teams) that wait for a quota of theirs: the job of each that goes first, and
    what it came up against."""
    contested: bool = False  # another order of the teams could plan other jobs


@dataclass(slots=True)
class ClusterState:
    uid: str
    spec: ClusterSpec | None = None
    nodes: dict[str, NodeView] = field(default_factory=dict[str, NodeView])
    counts: dict[NodeState, int] = field(default_factory=lambda: dict.fromkeys(NodeState, 0))
    idle: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])  # (since, id), ascending
    pending: list[OpenNode] = field(default_factory=list[OpenNode])  # decided, not yet NodeOpened
    queue: JobQueue = field(default_factory=JobQueue)
    parked: dict[str, tuple[JobRequest, Refusal]] = field(
        default_factory=dict[str, tuple[JobRequest, Refusal]]
    )
    running: dict[str, Run] = field(default_factory=dict[str, Run])
    fresh: list[str] = field(default_factory=list[str])  # queued since the last decision
    told: dict[str, str] = field(default_factory=dict[str, str])  # job -> code of its last Wait
    ending: set[str] = field(default_factory=set[str])  # running jobs told to end
    last: LastPlan = field(default_factory=LastPlan)

    def put(self, node: NodeView) -> None:
        """Adds a node or replaces what is known of it."""
        old = self.nodes.get(node.id)
        if old is not None:
            self._uncount(old)
        self.nodes[node.id] = node
        self.counts[node.state] += 1
        if node.state is NodeState.IDLE:
            insort(self.idle, (node.since, node.id))

    def drop(self, node_id: str) -> NodeView | None:
        node = self.nodes.pop(node_id, None)
        if node is not None:
            self._uncount(node)
        return node

    def _uncount(self, node: NodeView) -> None:
        self.counts[node.state] -= 1
        if node.state is NodeState.IDLE:
            del self.idle[bisect_left(self.idle, (node.since, node.id))]

    def fleet(self) -> Fleet:
        counts, spec = self.counts, self.spec
        return Fleet(
            spec.min_nodes if spec and not spec.deleting else 0,
            spec.max_nodes if spec and not spec.deleting else 0,
            counts[NodeState.RUNNING],
            counts[NodeState.IDLE],
            counts[NodeState.OPENING] + len(self.pending),
            counts[NodeState.CLOSING],
            counts[NodeState.LOST],
        )

    @property
    def empty(self) -> bool:
        return not (self.nodes or self.pending or self.queue or self.parked or self.running)

    def take_from_queue(self, uid: str) -> JobRequest | None:
        """Removes a waiting job, parked or not."""
        self.told.pop(uid, None)
        parked = self.parked.pop(uid, None)
        return parked[0] if parked is not None else self.queue.remove(uid)
