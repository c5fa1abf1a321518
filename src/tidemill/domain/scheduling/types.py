"""What the scheduler is told (events) and what it answers (decisions). All frozen, times in microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.domain.model import NodeState, Scope, Vector
from tidemill.domain.quota import Quotas

Party = tuple[str, str]  # (team, user): whose turn it is


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """An autoscaling set of equal nodes. Each node runs one job at a time."""

    uid: str
    name: str
    workspace: Scope
    size: str  # VM size name
    node: Vector  # size of one node
    min_nodes: int
    max_nodes: int
    idle_us: int  # an idle node above the minimum is closed after this long
    priority: int = 0  # of jobs that name none
    deleting: bool = False
    region: str = ""  # whose prices hold
    family: str = ""  # VM family of `size`: what Azure's quotas are given for
    purpose: str = ""  # what it exists for alone ("job 'train'"); "": for whatever is submitted to it


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job that waits: `node_count` whole nodes of its cluster, all or none."""

    uid: str
    name: str
    workspace: Scope
    team: str
    cluster_uid: str
    node_count: int
    priority: int  # higher first
    submitted_at: int
    estimated_us: int | None = None  # how long it runs at most, if known
    user: str = ""  # who submitted it; `team` is the user's own id where there is no team

    @property
    def party(self) -> Party:
        return self.team, self.user


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the scheduler knows of a node. RUNNING is busy; CLOSED nodes are not shown to it."""

    id: str
    cluster_uid: str
    state: NodeState
    granted: Vector
    gpu_ids: tuple[str, ...] = ()
    job_uid: str = ""
    since: int = 0  # when it entered `state`


@dataclass(frozen=True, slots=True)
class Host:
    """The capacity that all clusters of a pool share.

    `elastic`: nodes share cores and memory (see `capacity.elastic_grants`); `strict`: a node opens only when
    the sum of all granted fits. GPU ids are never shared in either."""

    total: Vector
    gpu_ids: tuple[str, ...] = ()
    mode: str = "elastic"  # "elastic" | "strict"

    @property
    def strict(self) -> bool:
        return self.mode == "strict"

    @property
    def gpus(self) -> int:
        return len(self.gpu_ids)


@dataclass(frozen=True, slots=True)
class Usage:
    """The share of a team, or of a user inside a team, of the host: decayed mean
    `value` at `at`, and the `rate` held since then (parts per billion of the host, dominant resource)."""

    value: float = 0.0
    at: int = 0
    rate: int = 0


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class HostSet:
    host: Host
    at: int = 0


@dataclass(frozen=True, slots=True)
class ClusterSet:
    """A cluster was made or changed (also: `deleting`)."""

    cluster: ClusterSpec
    at: int = 0


@dataclass(frozen=True, slots=True)
class ClusterRemoved:
    """The cluster's row is gone; whatever it still had is forgotten."""

    cluster_uid: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class JobQueued:
    """The job waits (first submit or a retry: its old `submitted_at` gives it its old place back)."""

    job: JobRequest
    at: int = 0


@dataclass(frozen=True, slots=True)
class JobGone:
    """The job does not wait any more (cancelled or ended while waiting). Of a running job: JobReleased."""

    job_uid: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class JobAssigned:
    """The job holds these nodes: tells a scheduler after a restart what runs already. `at`: since when."""

    job: JobRequest
    node_ids: tuple[str, ...]
    at: int = 0


@dataclass(frozen=True, slots=True)
class JobReleased:
    """The job's processes are proved gone: its nodes (those that are not lost or closing) are idle again."""

    job_uid: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class NodeOpened:
    """A node exists now, usually `opening`; answers one OpenNode. Also used to restore nodes in any state."""

    node: NodeView
    at: int = 0


@dataclass(frozen=True, slots=True)
class NodeReady:
    node_id: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class NodeBusy:
    """Confirms an Assign; repeating it changes nothing."""

    node_id: str
    job_uid: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class NodeUsed:
    """Somebody worked on the idle node until `at`: it is idle from then on."""

    node_id: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class NodeClosing:
    node_id: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class NodeLost:
    """Its agent does not answer: it holds its room until NodeGone, and may come back with NodeReady."""

    node_id: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class NodeGone:
    """Closed: every process proved gone."""

    node_id: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class TeamUsage:
    """Restores a team's or a user's decayed usage (from `PoolState.usages()` of the run before)."""

    team: str
    value: float
    at: int = 0
    user: str | None = None  # of this user inside the team


@dataclass(frozen=True, slots=True)
class QuotasSet:
    """All quotas and weights, in place of those before."""

    quotas: Quotas
    at: int = 0


@dataclass(frozen=True, slots=True)
class ClockOnly:
    """Nothing happened but time."""

    at: int = 0


# ---------------------------------------------------------------- decisions


@dataclass(frozen=True, slots=True)
class OpenNode:
    """Open one node. `ordinal` counts within this answer; the caller makes the id and applies NodeOpened."""

    cluster_uid: str
    ordinal: int
    granted: Vector
    gpu_ids: tuple[str, ...]
    code: str
    sentence: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class CloseNode:
    node_id: str
    cluster_uid: str
    code: str
    sentence: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Assign:
    """Start the job on these nodes, in rank order; `gpu_ids` per node."""

    job_uid: str
    cluster_uid: str
    node_ids: tuple[str, ...]
    gpu_ids: tuple[tuple[str, ...], ...]
    code: str
    sentence: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a job waits: sent when it is first queued and when its cluster's first job has another reason."""

    job_uid: str
    code: str
    sentence: str
    expected_at: int | None = None  # when it starts at the latest, if the running jobs' estimates say so


@dataclass(frozen=True, slots=True)
class EndJob:
    """The job cannot stay: its cluster is being deleted. A waiting job has left the queue with this; a
    running one (`running`) is to be stopped, and JobReleased follows as always."""

    job_uid: str
    running: bool
    code: str
    sentence: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class NotDone:
    """An OpenNode, CloseNode or Assign could not be carried out: it is taken back."""

    decision: OpenNode | CloseNode | Assign
    at: int = 0


Event = (
    HostSet
    | ClusterSet
    | ClusterRemoved
    | JobQueued
    | JobGone
    | JobAssigned
    | JobReleased
    | NodeOpened
    | NodeReady
    | NodeBusy
    | NodeUsed
    | NodeClosing
    | NodeLost
    | NodeGone
    | TeamUsage
    | QuotasSet
    | NotDone
    | ClockOnly
)
Decision = OpenNode | CloseNode | Assign | Wait | EndJob


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the scheduler decides from, as plain values: what the oracle reads."""

    host: Host
    clusters: Mapping[str, ClusterSpec]
    waiting: tuple[JobRequest, ...]
    running: tuple[tuple[JobRequest, int], ...]  # job and when it was assigned
    nodes: tuple[NodeView, ...]
    opening: tuple[OpenNode, ...]  # decided, not yet NodeOpened
    usages: Mapping[str, Usage]
    user_usages: Mapping[Party, Usage]
    quotas: Quotas
    half_life_us: int
