"""What this host and a cluster can ever give: asked at submit, and again when either changes.

A refusal names both sides of the comparison and the fix. What merely is not free now is no refusal: that
is the scheduler's to wait for.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.domain.model import Vector
from tidemill.domain.scheduling.types import ClusterSpec, Host, JobRequest
from tidemill.domain.units import human_bytes, human_cpus, plural

NOTHING = Vector()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job can never start as things are. `code` without a prefix; `message` ends with the fix."""

    code: str
    message: str


def admit(
    job: JobRequest, cluster: ClusterSpec, host: Host, held_by_others: Vector = NOTHING
) -> Refusal | None:
    """None: it can start one day. `held_by_others`: what other clusters' minimum nodes never give back."""
    return (
        _gang(job, cluster)
        or _gpus(job, cluster, host, held_by_others)
        or (_strict(job, cluster, host, held_by_others) if host.strict else None)
    )


def _gang(job: JobRequest, cluster: ClusterSpec) -> Refusal | None:
    if job.node_count <= cluster.max_nodes:
        return None
    return Refusal(
        "GangTooLarge",
        f"Job {job.name!r} needs {plural(job.node_count, 'node')} at once but compute {cluster.name!r} "
        f"has at most {cluster.max_nodes}: lower instance_count or raise the cluster's max_instances.",
    )


def _gpus(job: JobRequest, cluster: ClusterSpec, host: Host, held: Vector) -> Refusal | None:
    asked = job.node_count * cluster.node.gpus
    if asked == 0 or asked <= host.gpus - held.gpus:
        return None
    each = f" ({plural(job.node_count, 'node')} with {cluster.node.gpus} each)" if job.node_count > 1 else ""
    if asked > host.gpus:
        return Refusal(
            "GpusMissing",
            f"Job {job.name!r} needs {plural(asked, 'GPU')}{each} on compute {cluster.name!r} "
            f"({cluster.size}) but this host has {host.gpus or 'none'}: use a size or an instance_count that "
            "fits. GPUs are never shared.",
        )
    return Refusal(
        "HostHeld",
        f"Job {job.name!r} needs {plural(asked, 'GPU')}{each} but the minimum nodes of other clusters hold "
        f"{held.gpus} of this host's {host.gpus}: lower their min_instances.",
    )


def _strict(job: JobRequest, cluster: ClusterSpec, host: Host, held: Vector) -> Refusal | None:
    asked = (job.node_count * cluster.node.cpu_milli, job.node_count * cluster.node.memory)
    had = (host.total.cpu_milli, host.total.memory)
    kept = (held.cpu_milli, held.memory)
    if all(a <= h - k for a, h, k in zip(asked, had, kept, strict=True)):
        return None
    words = f"{human_cpus(asked[0])} and {human_bytes(asked[1])}"
    what = f"{plural(job.node_count, 'node')} of size {cluster.size} ({words})"
    if any(a > h for a, h in zip(asked, had, strict=True)):
        return Refusal(
            "HostTooSmall",
            f"Job {job.name!r} needs {what} but this host has {human_cpus(had[0])} and {human_bytes(had[1])} "
            "and its capacity is strict: choose a smaller size, or start the server with capacity elastic.",
        )
    return Refusal(
        "HostHeld",
        f"Job {job.name!r} needs {what} but the minimum nodes of other clusters hold {human_cpus(kept[0])} "
        f"and {human_bytes(kept[1])} of this host's {human_cpus(had[0])} and {human_bytes(had[1])}: "
        "lower their min_instances.",
    )
