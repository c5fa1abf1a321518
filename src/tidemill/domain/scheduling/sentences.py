"""The words of decisions: what a user reads in the time line and under "why is it waiting?".

Names of jobs and computes stay in their workspace: who reads a sentence may not know of the others.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidemill.domain.model import NodeState, Vector
from tidemill.domain.scheduling.capacity import limits
from tidemill.domain.scheduling.cluster import ClusterState
from tidemill.domain.scheduling.types import ClusterSpec, Host, JobRequest
from tidemill.domain.units import human_bytes, human_cpus, human_duration, join_words, plural

# Reason codes of Wait; a parked job's is WAITING + its refusal's code.
WAITING = "Waiting."
NODES_OPENING = "Waiting.NodesOpening"
NODES_BUSY = "Waiting.NodesBusy"
NODES_HELD = "Waiting.NodesHeld"
HOST_FULL = "Waiting.HostFull"
QUOTA = "Waiting.Quota"
GPUS_IN_USE = "Waiting.GpusInUse"
NO_COMPUTE = "Waiting.NoCompute"
COMPUTE_DELETING = "ComputeDeleting"

ASSIGNED = "Assigned"
BACKFILLED = "Assigned.Backfill"
OPEN_DEMAND = "NodeOpening.Demand"
OPEN_MINIMUM = "NodeOpening.Minimum"
CLOSE_IDLE = "NodeClosing.Idle"
CLOSE_MAXIMUM = "NodeClosing.Maximum"
CLOSE_RECLAIMED = "NodeClosing.Reclaimed"
CLOSE_DELETED = "NodeClosing.ComputeDeleted"


def size_words(size: Vector) -> str:
    """`4 vCPU, 14 GiB, 1 GPU`."""
    words = [human_cpus(size.cpu_milli), human_bytes(size.memory)]
    return ", ".join([*words, plural(size.gpus, "GPU")] if size.gpus else words)


def assigned(spec: ClusterSpec, nodes: tuple[str, ...], before: str) -> str:
    past = (
        f" It goes before {before!r}, which waits for more nodes: that job's start is not delayed."
        if before
        else ""
    )
    return f"Starts on {plural(len(nodes), 'node')} of {spec.name}: {join_words(nodes)}.{past}"


def opening(spec: ClusterSpec, granted: Vector, live: int, queued: int, sharing: int, minimum: bool) -> str:
    why = (
        f"to keep its minimum of {plural(spec.min_nodes, 'node')}"
        if minimum
        else f"for {plural(queued, 'queued job')}"
    )
    size = f"{spec.size}: {size_words(spec.node)}"
    text = f"{spec.name} opens node {live} of at most {spec.max_nodes} {why} ({size})."
    if granted != spec.node:
        text += f" It gets {size_words(granted)}: {plural(sharing, 'node')} share this host."
    return text


def closing(
    code: str, spec: ClusterSpec, idle_us: int = 0, busy: int = 0, left: int = 0, job: str = ""
) -> str:
    if code == CLOSE_DELETED and spec.purpose:
        return f"It was opened for {spec.purpose} alone, which needs it no more."
    if code == CLOSE_DELETED:
        return f"Compute {spec.name} is being deleted."
    if code == CLOSE_MAXIMUM:
        return f"{spec.name} now has at most {plural(spec.max_nodes, 'node')}: this idle one is over it."
    if code == CLOSE_RECLAIMED:
        idle = human_duration(idle_us)
        named = f"job {job!r}" if job else "a job of another workspace"
        return f"Idle for {idle}, and {named}, which goes first, needs its room on this host."
    stays = f"{plural(left, 'node')} stay{'s' if left == 1 else ''}" if left else "no node stays"
    return (
        f"Idle for {human_duration(idle_us)} (limit {human_duration(spec.idle_us)}) "
        f"and no queued job can use it; {stays} (min {spec.min_nodes}, max {spec.max_nodes})."
    )


def deleting(spec: ClusterSpec, running: bool) -> str:
    what = (
        "this job is stopped" if running else "this job cannot start any more; submit it to another compute"
    )
    return f"Compute {spec.name!r} is being deleted: {what}."


def no_compute(job: JobRequest) -> str:
    return f"Job {job.name!r} waits for its compute, which does not exist (yet) in this workspace."


def nodes_opening(state: ClusterState, job: JobRequest) -> str:
    assert state.spec is not None
    coming = state.counts[NodeState.OPENING] + len(state.pending)
    have = len(state.idle)
    if coming == 0:
        return f"Waits for {plural(job.node_count, 'node')} of {state.spec.name}, about to be opened."
    text = f"{state.spec.name} is opening {plural(coming, 'node')}"
    if job.node_count == 1:
        return f"{text}."
    return f"{text}; this job needs {job.node_count} at once ({have} idle)."


def nodes_busy(
    state: ClusterState, job: JobRequest, ahead: int, first: JobRequest | None, missing: str
) -> str:
    spec = state.spec
    assert spec is not None
    counts = state.counts
    parts = [f"{len(state.idle)} idle", f"{counts[NodeState.RUNNING]} busy"]
    coming = counts[NodeState.OPENING] + len(state.pending)
    leaving = counts[NodeState.CLOSING] + counts[NodeState.LOST]
    parts += [f"{coming} opening"] * bool(coming) + [f"{leaving} closing"] * bool(leaving)
    wanted = plural(job.node_count, "node")
    text = f"Waits for {wanted} of {spec.name} ({', '.join(parts)}, max {spec.max_nodes})"
    if ahead == 0 or first is None:
        holders = [run.job.name for _, run in zip(range(4), state.running.values(), strict=False)]
        if not holders:
            return f"{text}: it is next."
        shown = join_words(holders[:3] + ["others"] * (len(holders) > 3))
        return f"{text}: it is next; {shown} hold{'s' if len(holders) == 1 else ''} the busy ones."
    text += f": {plural(ahead, 'job')} {'is' if ahead == 1 else 'are'} ahead"
    if missing:
        return f"{text}; the first, {first.name!r}, waits for {missing}."
    if len(state.idle) >= job.node_count:
        return f"{text}; the idle ones are held for {first.name!r}, which needs {first.node_count} at once."
    return f"{text}."


def host_full(state: ClusterState, everyone: Iterable[ClusterState], host: Host, free: Vector) -> str:
    """Says who holds what of the host: computes of the same workspace by name, all others by size."""
    spec = state.spec
    assert spec is not None
    holders: list[str] = []
    elsewhere: dict[Vector, tuple[int, int]] = {}
    for other in sorted(everyone, key=lambda each: each.spec.name if each.spec else each.uid):
        if other.spec is None or not limits(host, other.spec):
            continue
        count, idle, size = len(other.nodes) + len(other.pending), len(other.idle), other.spec.node
        if count and other.spec.workspace == spec.workspace:
            holders.append(f"{other.spec.name} holds {_held(size, count, idle)}")
        elif count:
            before = elsewhere.get(size, (0, 0))
            elsewhere[size] = (before[0] + count, before[1] + idle)
    if elsewhere:
        parts = [_held(size, *counts) for size, counts in elsewhere.items()]
        holders.append(f"other workspaces hold {'; '.join(sorted(parts, reverse=True))}")
    held = join_words(holders) or "nobody holds any"
    if spec.node.gpus and not host.strict:
        return (
            f"Each node of {spec.name} needs {plural(spec.node.gpus, 'GPU')} of its own; "
            f"{free.gpus} of this host's {host.gpus} are free: {held}."
        )
    return (
        f"This host has no room for another node of {spec.name} ({size_words(spec.node)}); free are "
        f"{human_cpus(max(0, free.cpu_milli))} and {human_bytes(max(0, free.memory))}: {held}."
    )


def _held(size: Vector, count: int, idle: int) -> str:
    return f"{plural(count, 'node')} of {size_words(size)}" + (f", {idle} idle" if idle else "")
