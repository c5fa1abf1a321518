"""Who may do what: the one gate that every route, in every dialect, goes through.

A caller is a principal and has its roles, or a running job. A job has what `catalog.roles` gives every job in
its workspace; one that runs as somebody (`user_identity`, `managed`) has that principal's roles besides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidemill.app.services import Caller, Services
from tidemill.catalog.roles import JOB_ROLE
from tidemill.domain.activity import JOBS_OWN
from tidemill.domain.errors import Forbidden, Unauthenticated
from tidemill.domain.model import JobState, Scope
from tidemill.domain.principals import Principal
from tidemill.domain.roles import AccessIndex, Decision, RoleAssignment, covers, fold_scope
from tidemill.store.api import Granted

PUBLIC = "public"
SIGNED_IN = "signed-in"
JOB = "job"


class AccessDenied(Forbidden):
    """403 with the decision that refused whom."""

    def __init__(self, caller: Caller, decision: Decision) -> None:
        super().__init__(
            f"The client '{caller.name}' with object id '{caller.oid}' does not have authorization to "
            f"perform action '{decision.action}' over scope '{decision.scope}' or the scope is invalid. "
            "If access was recently granted, please refresh your credentials. "
            f"{decision.reason} An owner of the scope can grant a role that allows it: tidemill access grant."
        )
        self.caller, self.decision = caller, decision


async def authenticate(services: Services, token: str) -> Caller:
    """The caller that a bearer token speaks for, its principal with it. Raises Unauthenticated with the check
    that failed: also for a principal that is gone or disabled, for a sign-in or a job that has ended."""
    caller = services.tokens.verify(token)
    principal = await check_lives(services, caller)
    if caller.kind == JOB or principal is None:
        return caller
    return replace(caller, name=principal.name, kind=principal.kind.value, principal=principal)


async def check_lives(services: Services, caller: Caller) -> Principal | None:
    """A principal's token is worth something while it is there and enabled, and the sign-in that gave it goes
    on; a job's, while its job has not ended and whom it acts as is there. -> the principal whose roles count.
    Raises Unauthenticated."""
    if caller.session:
        await services.sessions.check(caller.session)
    if caller.kind == JOB:
        row = await services.store.read(lambda r: r.by_uid(caller.oid))
        if row is None or JobState(row.state).final:
            raise _dead(f"Job {caller.job!r} has ended, and its token with it. Use a token of your own.")
        if not caller.acts_as:
            return None
    oid = caller.acts_as or caller.oid
    principal = (await services.access.current()).principal(oid)
    if principal is None:
        raise _dead(f"The principal {caller.name!r} ({oid}) does not exist here any more.")
    if principal.disabled:
        raise _dead(f"The principal {principal.name!r} is disabled. An owner can enable it again.")
    return principal


def _dead(message: str) -> Unauthenticated:
    return Unauthenticated(message, "ExpiredAuthenticationToken")


async def decide(
    services: Services, caller: Caller, action: str, scope: Scope, below: str = "", *, data: bool = False
) -> Decision:
    """Whether `caller` may do `action` (`Microsoft.…/jobs/write`) at `scope`, or at a single resource below
    it (`jobs/NAME`), and by which assignment."""
    where = f"{scope.arm_id}/{below}" if below else scope.arm_id
    if action in (PUBLIC, SIGNED_IN):
        return Decision(
            True, action, where, "Everybody may." if action == PUBLIC else "Whoever signed in may."
        )
    index = await services.access.current()
    if caller.kind != JOB:
        return index.decide(caller.oid, action, where, data)
    own = _as_job(index, caller, action, where, data)
    if not caller.acts_as:
        return own
    borrowed = index.decide(caller.acts_as, action, where, data)
    if own.allowed and not borrowed.allowed:
        return own
    return replace(borrowed, reason=f"Job {caller.job!r} acts for its identity. {borrowed.reason}")


def as_decided(caller: Caller, decision: Decision) -> Caller:
    """The caller, knowing by whose roles it was let in."""
    given = decision.assignment
    borrowed = caller.kind == JOB and given is not None and given.principal != caller.oid
    return replace(caller, borrowed=True) if borrowed else caller


async def authorise(
    services: Services, caller: Caller, action: str, scope: Scope, below: str = "", *, data: bool = False
) -> Decision:
    """`decide`, raising AccessDenied for a no."""
    decision = await decide(services, caller, action, scope, below, data=data)
    if not decision.allowed:
        raise AccessDenied(caller, decision)
    return decision


async def check_still(services: Services, caller: Caller, action: str, scope: Scope, below: str = "") -> None:
    """Of an answer that goes on for long: raises what a new request would be refused with."""
    await check_lives(services, caller)
    await authorise(services, caller, action, scope, below)


@dataclass(frozen=True, slots=True)
class Part:
    """What a list shows to a caller who may not read all of its scope: rows with a role of their own
    (`granted`), scopes below (`scopes`, folded)."""

    granted: Granted
    scopes: tuple[str, ...]

    def shows(self, arm_id: str) -> bool:
        folded = fold_scope(arm_id)
        return any(covers(scope, folded) for scope in self.scopes)


async def authorise_part(
    services: Services, caller: Caller, action: str, scope: Scope
) -> tuple[Decision, Part | None]:
    """For lists: `authorise`, or the part below the scope that the caller may read. Raises AccessDenied where
    there is none."""
    decision = await decide(services, caller, action, scope)
    if decision.allowed:
        return decision, None
    index = await services.access.current()
    oid = caller.acts_as or caller.oid
    scopes = tuple(index.scopes_of(oid, action, scope.arm_id))
    if caller.kind == JOB and caller.scope is not None:
        mine = fold_scope(caller.scope.arm_id)
        if covers(fold_scope(scope.arm_id), mine) and _as_job(index, caller, action, mine, False).allowed:
            scopes = (*scopes, mine)
    if not scopes:
        raise AccessDenied(caller, decision)
    part = Part(Granted((oid, *index.groups_of(oid)), tuple(index.roles_allowing(action))), scopes)
    reason = f"{caller.name!r} sees what its roles at {len(scopes)} scopes below {scope.arm_id} show."
    return replace(decision, allowed=True, reason=reason), part


def _as_job(index: AccessIndex, caller: Caller, action: str, where: str, data: bool) -> Decision:
    """A job's own assignment is not stored: it starts and ends with the job."""
    if caller.scope is None:
        return Decision(False, action, where, f"Job {caller.job!r} belongs to no workspace.")
    role = index.role(JOB_ROLE)
    assert role is not None
    own = RoleAssignment(f"{JOBS_OWN}{caller.oid}", caller.scope.arm_id, caller.oid, JOB_ROLE)
    if covers(fold_scope(own.scope), fold_scope(where)) and index.allows(role, action, data):
        reason = f"Job {caller.job!r} is {role.name} in its workspace."
        return Decision(True, action, where, reason, own, role)
    return Decision(False, action, where, f"A job's token is not enough for {action} at {where}.")
