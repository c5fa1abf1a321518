"""Jobs without a compute: nodes of a size that they name, or of the default one, for them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.app.computes import implicit_computes
from tidemill.app.computes.compute_rules import SERVERLESS, object_at
from tidemill.app.computes.egress import TAG as EGRESS
from tidemill.app.errors import at
from tidemill.app.jobs import admission
from tidemill.app.services import Caller, Services
from tidemill.catalog.sizes import VmSize
from tidemill.domain.admission import Refusal
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import Resource, Scope
from tidemill.domain.plan import JobPlan
from tidemill.domain.scheduling.types import ClusterSpec

DEFAULT_SIZES = ("Standard_DS3_v2", "Standard_DS2_v2", "Standard_DS1_v2")
_TARGET = "properties.resources.instanceType"


@dataclass(frozen=True, slots=True)
class Choice:
    """`spec`: the compute that would be made; `notes`: why this size, for the time line."""

    spec: ClusterSpec
    notes: tuple[str, ...]


async def choose(
    s: Services, caller: Caller, workspace: Resource, name: str, job: CommandJob, team: str
) -> Choice:
    """The first of the sizes that this host and the quotas could ever give. Raises InvalidRequest with what
    is against each."""
    with at(_TARGET):
        given = [s.sizes.require(text) for text in job.instance_types]
    sizes = given or [s.sizes.require(text) for text in DEFAULT_SIZES]
    passed: list[tuple[VmSize, Refusal]] = []
    for size in sizes:
        spec = cluster(s, workspace, s.ids.uid(), name, size, job.node_count)
        refusal = await admission.refusal(s, caller, spec, job, team)
        if refusal is None:
            return Choice(spec, _notes(size, passed, bool(given)))
        passed.append((size, refusal))
    if len(passed) == 1:
        _, refusal = passed[0]
        raise InvalidRequest(refusal.message, refusal.code, "properties.resources.instanceCount")
    what = "the sizes that it names" if given else "the sizes of a job that names none"
    against = " ".join(f"{size.name}: {refusal.message}" for size, refusal in passed)
    raise InvalidRequest(f"Job {name!r} can have none of {what}. {against}", "NoSizeFits", _TARGET)


def cluster(
    s: Services, workspace: Resource, uid: str, name: str, size: VmSize, node_count: int
) -> ClusterSpec:
    """What the scheduler will know of the compute of a job."""
    group = workspace.key.scope
    return ClusterSpec(
        uid=uid,
        name=SERVERLESS,
        workspace=Scope(group.subscription, group.group, workspace.key.name),
        size=size.name,
        node=size.vector,
        min_nodes=0,
        max_nodes=node_count,
        idle_us=0,
        region=workspace.location,
        family=size.family,
        purpose=_purpose(name),
    )


def wanted(plan: JobPlan, name: str, tags: Mapping[str, Any]) -> implicit_computes.Wanted:
    """The compute of a planned job. Its tags go on the bill; what its nodes may reach is not the submitter's
    to say."""
    kept = {key: str(value) for key, value in tags.items() if key != EGRESS}
    return implicit_computes.Wanted(
        SERVERLESS, _purpose(name), plan.serverless, plan.job.node_count, tags=kept
    )


def shown(plan: JobPlan, properties: Mapping[str, Any]) -> dict[str, Any]:
    """`resources` of the job as it is given back: the size that it has, also where it named none or several
    (the SDK reads one)."""
    given = object_at(properties, "resources", "properties.resources")
    return {"resources": {**given, "instanceType": plan.serverless, "instanceCount": plan.job.node_count}}


def _notes(size: VmSize, passed: Sequence[tuple[VmSize, Refusal]], given: bool) -> tuple[str, ...]:
    notes = [f"Not on {other.name}. {refusal.message}" for other, refusal in passed]
    if not given:
        notes.append(
            f"It names neither a compute nor a size, so its nodes are {size.name}. "
            "To choose: resources.instance_type."
        )
    return tuple(notes)


def _purpose(name: str) -> str:
    return f"job {name!r}"
