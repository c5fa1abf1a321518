"""The one ASGI application behind both listeners: authenticate, find the route, authorise, answer."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from starlette.responses import Response

from tidemill.app.jobs.admission import HIGH_PRIORITY
from tidemill.app.people.access import (
    AccessDenied,
    Part,
    as_decided,
    authenticate,
    authorise,
    authorise_part,
    decide,
)
from tidemill.app.rows.registry_rows import require_registry, scope_of_row
from tidemill.app.services import Caller, Services
from tidemill.app.workspaces.workspaces import WorkspaceIndex
from tidemill.domain.errors import Conflict, Forbidden, NotFound, OutOfSpace, TidemillError, Unauthenticated
from tidemill.domain.ids import PROVIDER
from tidemill.domain.listening import misdirected
from tidemill.domain.model import Scope
from tidemill.identity.tokens import VAULT_AUDIENCE
from tidemill.portal.frame import denied_page, error_page
from tidemill.portal.session import cookie_of, origin_of
from tidemill.portal.sign_in_pages import sign_in_page
from tidemill.server.audit import Audit, Seen
from tidemill.store.api import StaleRevision
from tidemill.wire.arm.errors import error_response
from tidemill.wire.http import (
    PUBLIC,
    SIGNED_IN,
    UPGRADE,
    ClientGone,
    Context,
    Request,
    Route,
    Router,
    check_segment,
    resource_below,
)
from tidemill.wire.mlflow import errors as mlflow_errors

DATA_PLANE = "/mferp/managementfrontend"  # the SDK's data-plane prefix of ARM's own paths
VAULT = "/keyvault/"
_SAFE = ("GET", "HEAD")
_READ_WORKSPACE = f"{PROVIDER}/workspaces/read"
_READ_REGISTRY = f"{PROVIDER}/registries/read"
_log = logging.getLogger("tidemill.http")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class App:
    """`routes` of every dialect; a workspace in a path must exist, except where the route is its own."""

    def __init__(self, services: Services, routes: Iterable[Route]) -> None:
        self._services = services
        self._audit = Audit(services)
        self._hosts = services.settings.listening.hosts
        self.router = Router(routes)
        needed = (route.action for route in self.router.routes if "/" in route.action)
        services.live.actions = frozenset((*needed, HIGH_PRIORITY))
        self._workspaces = WorkspaceIndex(services.store)
        own = ("/{ws}", "/{reg}")
        self._own = frozenset(route.path for route in self.router.routes if route.path.endswith(own))
        self._subscription = services.settings.subscription
        self._whole = Scope(self._subscription)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return  # no lifespan of its own
        request_id = os.urandom(16).hex()
        request, seen = Request(scope, receive), Seen()  # type: ignore[arg-type]
        failed: TidemillError | None = None
        try:
            response = await self._answer(request, seen)
        except ClientGone:
            return
        except Exception as error:
            failed = self._as_answer(error, request, request_id)
            response = await self._refused(request, failed)
        try:
            await self._audit.answered(request, seen, response, failed, request_id)
        except TidemillError as error:
            response = self._refusal(request, error)
        response.raw_headers.append((b"x-ms-request-id", request_id.encode()))
        response.raw_headers.append((b"x-ms-correlation-request-id", request_id.encode()))
        await response(scope, receive, send)

    async def _answer(self, request: Request, seen: Seen) -> Response:
        raw = request.scope.get("raw_path") or request.path.encode()
        path = raw.decode("latin-1")
        problem = misdirected(request.header("host"), self._hosts)
        if problem is not None:
            raise TidemillError(problem, "MisdirectedRequest", status=421)
        if request.method == UPGRADE and request.header("origin") and not self._same_origin(request):
            raise Forbidden("A page of another site may not open a line to this server.", "ForeignOrigin")
        route, params, methods = self.router.match(request.method, path)
        if route is None and not methods and path.lower().startswith(DATA_PLANE):
            route, params, methods = self.router.match(request.method, path[len(DATA_PLANE) :])
        if route is None:
            raise self._no_route(request, methods)
        seen.route = route
        if route.action == PUBLIC:
            scope = self._scope(params)
            decision = await decide(self._services, seen.caller, PUBLIC, scope)
            context = Context(request, self._services, seen.caller, params, scope, decision)
            response = await route.handler(context)
            seen.caller = context.caller
            return response
        seen.caller = caller = await authenticate(self._services, self._token(request))
        seen.scope = scope = self._scope(params)
        part: Part | None = None
        if route.partial:
            decision, part = await authorise_part(self._services, caller, route.action, scope)
        else:
            below = resource_below(route.resource, params)
            decision = await authorise(self._services, caller, route.action, scope, below)
        seen.decision = decision
        caller = as_decided(caller, decision)
        if scope.workspace and await self._may_know(caller, route, scope):
            scope = await self._existing(scope, route, request.method)
        context = Context(request, self._services, caller, params, scope, decision, route.resource, part)
        return await route.handler(context)

    def _token(self, request: Request) -> str:
        header = request.header("authorization")
        if header:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthenticated(f"Authentication failed. Send a Bearer token, not {scheme!r}.")
            return token.strip()
        cookie = cookie_of(request.header("cookie"))
        # Another site sends a Lax cookie only to go to a page; the origin is checked before any change.
        if cookie and (request.method in _SAFE or self._same_origin(request)):
            return cookie
        raise Unauthenticated("Authentication failed. The 'Authorization' header is missing.")

    def _same_origin(self, request: Request) -> bool:
        return request.header("origin") == origin_of(self._services, request)

    def _scope(self, params: dict[str, str]) -> Scope:
        subscription = params.get("sub")
        if subscription is None:
            return self._whole
        if subscription.lower() != self._subscription.lower():
            raise NotFound(
                f"The subscription '{subscription}' could not be found. Here it is '{self._subscription}'.",
                "SubscriptionNotFound",
                subscription,
            )
        group, workspace, registry = (params.get(name, "") for name in ("rg", "ws", "reg"))
        for part in (group, workspace, registry):
            check_segment(part)
        if registry:
            return Scope.of_registry(self._subscription, group, registry)
        return Scope(self._subscription, group, workspace)

    async def _may_know(self, caller: Caller, route: Route, scope: Scope) -> bool:
        """Whether the caller may be told that there is no such workspace, and which there are. What everybody
        may ask is answered alike for those that are there and those that are not."""
        if route.action != SIGNED_IN:
            return True
        action = _READ_REGISTRY if scope.registry else _READ_WORKSPACE
        return (await decide(self._services, caller, action, scope)).allowed

    async def _existing(self, scope: Scope, route: Route, method: str) -> Scope:
        """The scope as its owner spelled it."""
        if route.path in self._own:
            return scope
        if scope.registry:
            row = await self._services.store.read(lambda read: require_registry(read, scope))
            return scope_of_row(row)
        workspace = await self._workspaces.find(scope)
        if workspace.state == "Deleting" and method not in _SAFE:
            raise Conflict(
                f"Workspace '{scope.workspace}' is being deleted.", "WorkspaceDeleting", scope.workspace
            )
        return workspace.scope

    def _no_route(self, request: Request, methods: tuple[str, ...]) -> TidemillError:
        if methods:
            return TidemillError(
                f"{request.method} is not offered at {request.path}; it takes {', '.join(sorted(methods))}.",
                "MethodNotAllowed",
                request.path,
                status=405,
            )
        return NotFound(f"There is nothing at {request.path}.", "NotFound", request.path)

    def _as_answer(self, error: Exception, request: Request, request_id: str) -> TidemillError:
        if isinstance(error, TidemillError):
            return error
        if isinstance(error, StaleRevision):
            return Conflict(
                "Somebody else changed this at the same moment. Read it again and repeat.", "ConcurrentChange"
            )
        return self._unexpected(error, request, request_id)

    def _unexpected(self, error: Exception, request: Request, request_id: str) -> TidemillError:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OutOfSpace(f"The disk of {self._services.settings.home} is full. Make space and repeat.")
        _log.error("request %s: %s %s", request_id, request.method, request.path, exc_info=error)
        log = self._services.settings.home / "logs" / "control.log"
        return TidemillError(
            f"The server failed on this request. Its log ({log}) has the cause under {request_id}.",
            "InternalServerError",
            status=500,
        )

    async def _refused(self, request: Request, error: TidemillError) -> Response:
        if error.status == 401 and request.path.lower().startswith("/ui"):
            return await sign_in_page(self._services, request, error)
        if isinstance(error, AccessDenied) and request.path.lower().startswith("/ui"):
            return await denied_page(self._services, error)
        return self._refusal(request, error)

    def _refusal(self, request: Request, error: TidemillError) -> Response:
        """The error in the shape of the dialect that was spoken."""
        path = request.path.lower()
        if path.startswith(mlflow_errors.PREFIX):
            return mlflow_errors.mlflow_error(error)
        if path.startswith(VAULT) and error.status == 401:
            authority = f"{self._services.addresses.https}/adfs"
            challenge = f'Bearer authorization="{authority}", resource="{VAULT_AUDIENCE}"'
            return error_response(error, {"WWW-Authenticate": challenge})
        return error_page(error) if path.startswith("/ui") else error_response(error)
