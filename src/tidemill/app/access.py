"""Who may do what. For now: the owner everything; a job's token its own workspace's runs, data and assets."""

from __future__ import annotations

from tidemill.app.services import Caller, Services
from tidemill.domain.errors import Forbidden, Unauthenticated
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import JobState, Scope

PUBLIC = "public"
SIGNED_IN = "signed-in"

_WORKSPACE = f"{PROVIDER}/workspaces/".lower()
# What a job's token may write, below its workspace. It reads everything there that is no secret.
_JOB_WRITES = tuple(
    _WORKSPACE + kind
    for kind in ("experiments/", "runs/", "metrics/", "artifacts/", "data/", "models/", "jobs/runs/")
)
_SECRET_WORDS = ("secret", "key", "token", "credential")


def authenticate(services: Services, token: str) -> Caller:
    """The caller that a bearer token speaks for. Raises Unauthenticated with the check that failed."""
    return services.tokens.verify(token)


async def check_lives(services: Services, caller: Caller) -> None:
    """A job's token is worth something as long as its job has not ended. Raises Unauthenticated."""
    if caller.kind != "job":
        return
    row = await services.store.read(lambda r: r.by_uid(caller.oid))
    if row is None or JobState(row.state).final:
        raise Unauthenticated(
            f"Job {caller.job!r} has ended, and its token with it. Use a token of your own.",
            "ExpiredAuthenticationToken",
        )


def authorise(caller: Caller, action: str, scope: Scope) -> None:
    """Raises Forbidden unless `caller` may do `action` (`Microsoft.…/jobs/write`) at `scope`."""
    if caller.kind == "owner" or action in (PUBLIC, SIGNED_IN):
        return
    if caller.kind == "job" and _within(caller, scope) and _job_may(action.lower()):
        return
    raise Forbidden(
        f"The client '{caller.name}' with object id '{caller.oid}' does not have authorization to perform "
        f"action '{action}' over scope '{scope.arm_id}' or the scope is invalid. "
        "If access was recently granted, please refresh your credentials."
    )


def _within(caller: Caller, scope: Scope) -> bool:
    mine = caller.scope
    return mine is not None and mine.arm_id.lower() == scope.arm_id.lower()


def _job_may(action: str) -> bool:
    if not (action.startswith(_WORKSPACE) or action == f"{PROVIDER}/workspaces/read".lower()):
        return False
    if any(word in action for word in _SECRET_WORDS):
        return False
    return action.endswith("/read") or action.startswith(_JOB_WRITES)
