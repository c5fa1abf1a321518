"""Submitting in somebody's name while they are not there: a pipeline's steps, a schedule's jobs."""

from __future__ import annotations

from tidemill.app.people import access
from tidemill.app.services import Services
from tidemill.domain.errors import Forbidden
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, Scope
from tidemill.domain.principals import PrincipalKind

SUBMIT = f"{PROVIDER}/workspaces/jobs/write"


async def in_name_of(s: Services, oid: str, scope: Scope, whose: str) -> Caller:
    """The principal, with the roles that it has now. `whose`: the beginning of a sentence, for example
    "Job 'a' was submitted by ann". Raises Forbidden where it may not submit any more."""
    principal = (await s.access.current()).principal(oid)
    if principal is None or principal.disabled:
        state = "is disabled" if principal else "does not exist here any more"
        raise Forbidden(f"{whose}, who {state}: nothing more is started in their name.")
    caller = Caller(oid, principal.name, PrincipalKind(principal.kind).value, principal=principal)
    await access.authorise(s, caller, SUBMIT, scope)
    return caller
