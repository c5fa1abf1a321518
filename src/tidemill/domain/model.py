"""The records of the system: plain frozen values, the same in the store, the core and the wire.

Times are `int` microseconds since the Unix epoch, UTC, and their names end in `_at`. Ids (`uid`) are
time-ordered and never reused. JSON that belongs to a user is kept as the bytes that were stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tidemill.domain.principals import Principal

_REGISTRY = "registries/"


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """Where a row belongs. No workspace: to the resource group; no group either: to the subscription.
    A registry is a scope beside workspaces: `workspace` is then "registries/NAME", which none is called."""

    subscription: str
    group: str = ""
    workspace: str = ""

    @classmethod
    def of_registry(cls, subscription: str, group: str, registry: str) -> Scope:
        return cls(subscription, group, _REGISTRY + registry)

    @property
    def registry(self) -> str:
        """The registry's name; "" of every other scope."""
        return self.workspace.removeprefix(_REGISTRY) if self.workspace.startswith(_REGISTRY) else ""

    @property
    def words(self) -> str:
        """`workspace 'main'`, `registry 'shared'`, for sentences."""
        return f"registry {self.registry!r}" if self.registry else f"workspace {self.workspace!r}"

    @property
    def arm_id(self) -> str:
        parts = f"/subscriptions/{self.subscription}"
        if self.group:
            parts += f"/resourceGroups/{self.group}"
        if self.workspace:
            path = self.workspace if self.registry else f"workspaces/{self.workspace}"
            parts += f"/providers/Microsoft.MachineLearningServices/{path}"
        return parts


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a principal (`oid` is its own), or a running job (`oid` is the job's uid, `job` its name)."""

    oid: str
    name: str
    kind: str  # a PrincipalKind, "job", or "anonymous"
    scope: Scope | None = None  # a job's workspace
    job: str = ""
    acts_as: str = ""  # the principal whose roles a job has besides its own: its submitter, its compute
    borrowed: bool = False  # those roles let it in: it may what the principal may
    principal: Principal | None = None  # as it is now; not of a job
    session: str = ""  # the sign-in that the token came from, if from one

    @property
    def only_own(self) -> bool:
        """A job by its own rights writes to nothing but its own run."""
        return self.kind == "job" and not self.borrowed


@dataclass(frozen=True, slots=True)
class Key:
    """What names one resource: unique over (scope, type, parent, name), case-insensitively like ARM."""

    scope: Scope
    type: str  # ARM's segment path below the scope: "computes", "jobs", "environments/versions", …
    name: str
    parent: str = ""  # the container of a version: Key(ws, "models/versions", "3", parent="digits")


@dataclass(frozen=True, slots=True)
class Resource:
    """One row of the envelope table. `spec`: ARM's `properties` as stored bytes; `status`: ours (JSON)."""

    uid: str
    key: Key
    state: str = ""
    spec: bytes = b"{}"
    status: bytes = b"{}"
    tags: bytes = b"{}"
    location: str = ""
    ref: str = ""  # an indexed pointer: a job's compute name, a code's hash …
    digest: str = ""  # hash of the submitted body: the same PUT twice is one resource
    archived: bool = False
    parent_uid: str = ""  # of a job that another one (a pipeline, a sweep) started: its uid
    created_at: int = 0
    modified_at: int = 0
    created_by: str = ""
    next_at: int | None = None  # when a controller must look again; None: nothing is due
    revision: int = 1  # compare-and-set


class JobState(StrEnum):
    """Azure's job states. The order of the active ones is the order they are passed through."""

    QUEUED = "Queued"
    PREPARING = "Preparing"  # its environment is being built
    PROVISIONING = "Provisioning"  # waits for a node that is being opened
    STARTING = "Starting"  # inputs staged, processes started
    RUNNING = "Running"
    FINALIZING = "Finalizing"  # outputs and logs collected
    CANCEL_REQUESTED = "CancelRequested"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"

    @property
    def final(self) -> bool:
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELED)


class AttemptState(StrEnum):
    ASSIGNED = "Assigned"  # nodes chosen; nothing has been started
    STAGING = "Staging"  # inputs are copied, directories made
    STARTING = "Starting"  # agents have been told
    RUNNING = "Running"
    STOPPING = "Stopping"  # TERM -> KILL -> close the node, by the published timetable
    COLLECTING = "Collecting"  # processes proved gone; outputs and logs are being stored
    ENDED = "Ended"


class Outcome(StrEnum):
    """How an attempt ended. Only SYSTEM_FAILURE is tried again; PREEMPTED costs no retry."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"  # the user's code
    CANCELED = "Canceled"
    SYSTEM_FAILURE = "SystemFailure"
    PREEMPTED = "Preempted"


class NodeState(StrEnum):
    OPENING = "Opening"
    IDLE = "Idle"
    RUNNING = "Running"
    CLOSING = "Closing"
    PARKED = "Parked"  # what it runs stands still: it takes nobody's room and costs nothing
    LOST = "Lost"  # its agent does not answer; processes not yet proved gone
    CLOSED = "Closed"


@dataclass(frozen=True, slots=True, order=True)
class Vector:
    """A size: thousandths of a core, bytes, whole GPUs."""

    cpu_milli: int = 0
    memory: int = 0
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job on a set of nodes. `epoch` counts starts: an agent refuses an older one."""

    id: str  # "{job_uid}.{number}"
    job_uid: str
    number: int
    compute_uid: str
    nodes: tuple[str, ...] = ()  # node ids, rank order
    gpu_ids: tuple[tuple[str, ...], ...] = ()  # per node
    state: AttemptState = AttemptState.ASSIGNED
    epoch: int = 1
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""  # code
    message: str = ""  # the sentence a user reads
    created_at: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    stop_requested_at: int | None = None
    stop_reason: str = ""
    ranks: bytes = b"{}"  # JSON {rank: {"exit_code":…, "signal":…, "ended_at":…}} as they come in
    next_at: int | None = None
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Node:
    """A slice of a host (or of an engine). `handle` is the engine's own JSON, opaque to us."""

    id: str  # "{compute}-{6 hex}" unique for ever
    compute_uid: str
    pool: str
    size: str  # VM size name
    granted: Vector = field(default_factory=Vector)
    gpu_ids: tuple[str, ...] = ()
    state: NodeState = NodeState.OPENING
    tier: str = "dedicated"
    handle: bytes = b"{}"
    limits: bytes = b"{}"  # {"cpu": {"enforced": true, "by": "cgroup v1"}, …}
    attempt_id: str = ""  # what it runs now
    idle_since: int | None = None
    created_at: int = 0
    ready_at: int | None = None
    closed_at: int | None = None
    heartbeat_at: int = 0
    reason: str = ""
    next_at: int | None = None
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Event:
    """A transition, written in the commit that made it. `message` is a sentence for a user."""

    subject: str  # uid of the job / node / compute / … or node id
    kind: str  # "job", "node", "compute", "environment", "workspace"
    at: int
    code: str  # reason code: "Submitted", "NodeOpening", "Waiting.NoCapacity", …
    message: str
    actor: str = "system"
    data: bytes = b"{}"
    seq: int = 0  # given by the store, increasing


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of the ledger. Open while `ended_at` is None; `last_seen_at` is its fsynced heartbeat."""

    id: str  # node: "{node_id}"; allocation: "{attempt_id}:{node_id}"
    kind: str  # "node" | "allocation"
    node_id: str
    compute_uid: str
    workspace: Scope
    size: str
    tier: str
    region: str
    started_at: int
    started_mono: int  # CLOCK_BOOTTIME, microseconds
    boot_id: str
    last_seen_at: int
    job_uid: str = ""
    tags: bytes = b"{}"
    ended_at: int | None = None
    ended_mono: int | None = None
    end_reason: str = ""


@dataclass(frozen=True, slots=True)
class Touched:
    """What a commit changed: the unit of wake-ups."""

    kind: str  # "resource:jobs", "resource:computes", "attempt", "node", "event", "interval"
    uid: str
