"""From a request and its answer to a record of the activity log."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.responses import Response

from tidemill.app.people.access import AccessDenied
from tidemill.app.services import Services
from tidemill.domain.activity import (
    MAX_AGENT,
    MAX_REASON,
    MAX_RESOURCE,
    Outcome,
    Record,
    is_kept,
    outcome_of,
    plain,
    shows_secret,
)
from tidemill.domain.errors import OutOfSpace, TidemillError
from tidemill.domain.model import Caller, Scope
from tidemill.domain.roles import Decision
from tidemill.wire.http import Request, Route

NATIVE = "/api/v1"
VAULT = "/keyvault"
_WAITING = ("authorization_pending", "slow_down")  # a program asks again and again while somebody signs in
_CORRELATION = re.compile(r"[A-Za-z0-9-]{8,64}\Z")


NOBODY = Caller("", "anonymous", "anonymous")


@dataclass(slots=True)
class Seen:
    """What became known of a request on its way: filled in step by step, as far as it came."""

    route: Route | None = None
    caller: Caller = NOBODY
    scope: Scope | None = None
    decision: Decision | None = None


class Audit:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def answered(
        self, request: Request, seen: Seen, response: Response, error: TidemillError | None, request_id: str
    ) -> None:
        """Records it where it is one to be kept. Raises OutOfSpace for a secret whose record cannot be put on
        disk: it is not given out then."""
        route, status = seen.route, response.status_code
        if route is None:
            return
        method = "GET" if route.reads else request.method
        if not is_kept(method, route.action, status, route.signs_in):
            return
        if status == 401 and route.path.startswith(VAULT) and not request.header("authorization"):
            return  # the client asks without a token to be told whom to get one from
        code = _code(response) if status >= 400 else ""
        if code in _WAITING:
            return
        self._services.activity.record(self._record(request, route, seen, status, code, error, request_id))
        if error is None and shows_secret(route.action) and not await self._services.activity.flush():
            raise OutOfSpace("The activity log cannot be written, so no secret is given out. Make space.")

    def _record(
        self,
        request: Request,
        route: Route,
        seen: Seen,
        status: int,
        code: str,
        error: TidemillError | None,
        request_id: str,
    ) -> Record:
        path = request.path
        for prefix in (NATIVE, VAULT):
            if path.startswith(f"{prefix}/subscriptions/"):
                path = path[len(prefix) :]
        client, decision = request.scope.get("client"), seen.decision
        action = "Tidemill.Server/signIn/action" if route.signs_in else route.action
        if isinstance(error, AccessDenied):
            decision, action = error.decision, error.decision.action  # a handler may have asked for more
        asked = request.header("x-ms-correlation-request-id") or request.header("x-ms-client-request-id")
        return Record(
            at=self._services.clock.now(),
            action=action,
            # OAuth refuses with 400, too.
            outcome=Outcome.REFUSED if route.signs_in and 400 <= status < 500 else outcome_of(status),
            actor=seen.caller.oid,
            actor_name=seen.caller.name,
            actor_kind=seen.caller.kind,
            address=str(client[0]) if client else "",
            agent=plain(request.header("user-agent"), MAX_AGENT),
            scope="" if seen.scope is None else seen.scope.arm_id,
            resource=plain(path, MAX_RESOURCE),
            method=request.method,
            status=status,
            code=code if error is None else error.code,
            assignment="" if decision is None or decision.assignment is None else decision.assignment.id,
            reason=plain("" if decision is None else decision.reason, MAX_REASON),
            correlation=asked if _CORRELATION.match(asked) else request_id,
        )


def _code(response: Response) -> str:
    found = (value for name, value in response.raw_headers if name == b"x-ms-error-code")
    return plain(next(found, b"").decode("latin-1"), MAX_AGENT)
