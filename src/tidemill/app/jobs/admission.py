"""What is refused at submit: a job that could never start, a priority that the caller may not give."""

from __future__ import annotations

from tidemill.app.computes import computes, quotas
from tidemill.app.people import access
from tidemill.app.services import Caller, Services
from tidemill.domain.admission import Refusal, admit
from tidemill.domain.errors import Forbidden, InvalidRequest
from tidemill.domain.ids import PROVIDER
from tidemill.domain.jobspec import HIGH, MEDIUM, CommandJob
from tidemill.domain.model import Scope
from tidemill.domain.principals import PrincipalKind
from tidemill.domain.quota import NO_QUOTAS, Quotas
from tidemill.domain.scheduling.allowance import admit_quotas
from tidemill.domain.scheduling.types import ClusterSpec, Host, JobRequest
from tidemill.domain.units import join_words
from tidemill.store.api import Read, ResourceQuery

# No action below workspaces/: those are granted by wildcards of roles that are for every day's work.
HIGH_PRIORITY = f"{PROVIDER}/highPriorityJobs/submit/action"


async def check(s: Services, caller: Caller, spec: ClusterSpec, job: CommandJob, team: str) -> None:
    """Raises InvalidRequest with the figures (domain.admission, domain.quota), Forbidden with who may."""
    found = await refusal(s, caller, spec, job, team)
    if found is not None:
        raise InvalidRequest(found.message, found.code, "properties.resources.instanceCount")


async def refusal(
    s: Services, caller: Caller, spec: ClusterSpec, job: CommandJob, team: str
) -> Refusal | None:
    """Why it could never start there. Raises Forbidden with who may give it its priority."""
    if job.priority > MEDIUM:
        await _check_priority(s, caller, spec.workspace, job.priority)
    capacity = await s.engine.capacity()
    host = Host(capacity.total, capacity.gpu_ids, s.settings.capacity)
    request = request_of(spec, job.display_name, job.node_count, team, caller.acts_as or caller.oid)
    never = admit(request, spec, host)
    if never is not None:
        return never
    serverless = await quotas.serverless_nodes(s) if spec.purpose else 0
    limits, others = await s.store.read(lambda read: _limits(s, read, spec, serverless))
    return admit_quotas(request, spec, limits, others)


def request_of(spec: ClusterSpec, name: str, nodes: int, team: str, user: str) -> JobRequest:
    """A job that is not there (yet), for the scheduler's rules."""
    return JobRequest("", name, spec.workspace, team, spec.uid, nodes, MEDIUM, 0, None, user)


def _limits(s: Services, read: Read, spec: ClusterSpec, serverless: int) -> tuple[Quotas, list[ClusterSpec]]:
    """Quotas, and the other computes of the workspace."""
    if not serverless and not read.count(ResourceQuery(quotas.TYPE)):
        return NO_QUOTAS, []
    rows = read.find(ResourceQuery(computes.TYPE, spec.workspace))
    found = (computes.cluster_of(s, row) for row in rows if row.uid != spec.uid)
    return quotas.load(read, serverless), [other for other in found if other is not None]


async def _check_priority(s: Services, caller: Caller, scope: Scope, priority: int) -> None:
    decision = await access.decide(s, caller, HIGH_PRIORITY, scope)
    if decision.allowed:
        return
    index = await s.access.current()
    people = await s.store.read(lambda read: read.principals(PrincipalKind.USER))
    may = [
        p.name for p in people if not p.disabled and index.decide(p.oid, HIGH_PRIORITY, scope.arm_id).allowed
    ]
    raise Forbidden(
        f"Priority {'high' if priority == HIGH else priority} is above medium: {caller.name} would need the "
        f"action {HIGH_PRIORITY} in workspace {scope.workspace!r}. {join_words(may) or 'Nobody'} may. Submit "
        "with priority medium, or ask an owner for a role with that action.",
        "PriorityNotAllowed",
        "properties.queueSettings.priority",
    )
