"""The HTTP shell every dialect shares: declared routes, a path trie, a small request and its context.

A route declares its method, its path, the action it needs and the scope it acts on. There is no way to add
one without: `Route` has no default for `action`. Static segments match without regard to case, as in ARM;
`{name}` takes one segment; a last `{rest:path}` takes the remainder.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from tidemill.app.people.access import Part
from tidemill.app.services import Caller, Services
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Scope
from tidemill.domain.roles import Decision

PUBLIC = "public"  # no token: metadata, discovery, token endpoints, signed URLs
SIGNED_IN = "signed-in"  # any valid token of this server

UPGRADE = "WEBSOCKET"  # the method of a route that goes on as a WebSocket

MAX_BODY = 16 * 1024 * 1024
MAX_FORM = 64 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Request:
    """The parts of an ASGI request that handlers use. Bodies are JSON of at most MAX_BODY bytes."""

    __slots__ = ("_body", "_query", "_receive", "headers_raw", "method", "path", "scope")

    def __init__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self.scope = scope
        self.method: str = UPGRADE if scope.get("type") == "websocket" else scope["method"]
        self.path: str = scope["path"]
        self.headers_raw: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._body: bytes | None = None
        self._query: dict[str, str] | None = None

    def header(self, name: str, default: str = "") -> str:
        wanted = name.lower().encode()
        for key, value in self.headers_raw:
            if key == wanted:
                return value.decode("latin-1")
        return default

    @property
    def query(self) -> dict[str, str]:
        if self._query is None:
            raw = self.scope["query_string"].decode("latin-1")
            self._query = dict(parse_qsl(raw, keep_blank_values=True)) if raw else {}
        return self._query

    @property
    def address(self) -> str:
        """The IP address it came from; "" where it is not known."""
        return str((self.scope.get("client") or ("",))[0])

    @property
    def api_version(self) -> str:
        return self.query.get("api-version", "")

    async def body(self, limit: int = MAX_BODY) -> bytes:
        if self._body is None:
            chunks: list[bytes] = []
            size = 0
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise InvalidRequest(
                        f"The body is larger than {limit} bytes.", "RequestEntityTooLarge", status=413
                    )
                chunks.append(chunk)
                if not message.get("more_body", False):
                    break
            self._body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return self._body

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes in, of any size; instead of `body`, once."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} when empty. Raises InvalidRequest with the decoder's place."""
        raw = await self.body()
        if not raw:
            return {}
        try:
            value = _decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(f"The body is not JSON: {error}.", "InvalidRequestContent") from error
        if not isinstance(value, dict):
            raise InvalidRequest("The body must be a JSON object.", "InvalidRequestContent")
        return value

    async def form(self) -> dict[str, str]:
        """Of at most MAX_FORM bytes: forms are read before anybody has signed in."""
        raw = await self.body(MAX_FORM)
        return dict(parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True))


class ClientGone(Exception):
    """The client closed the connection before its body was whole."""


@dataclass(slots=True)
class Context:
    """One authorised request. `params` holds the path's variables, unquoted."""

    request: Request
    services: Services
    caller: Caller
    params: dict[str, str]
    scope: Scope
    decision: Decision  # which assignment let it in
    resource: str = ""  # the route's: what it is about below the workspace
    part: Part | None = None  # of a list: all that the caller may see of it; None: everything


Handler = Callable[[Context], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """`action` is ARM's (`Microsoft.…/read`), PUBLIC or SIGNED_IN. The scope is read from the path's
    {sub}, {rg}, {ws}; routes without them act on the whole server (the default subscription).
    `resource` is what the action is about below the workspace (`jobs/{name}`): a role may be assigned there.
    It is read from the path where that has ARM's form, `…/{ws}/jobs/{name}/…`. `partial`: a list that shows
    the part below its scope that the caller may read, where that is not all."""

    method: str
    path: str
    action: str
    handler: Handler
    name: str = ""
    resource: str = ""
    partial: bool = False
    reads: bool = False  # it changes nothing, whatever its method: the activity log leaves it out
    signs_in: bool = False  # a way to get a token: its handler puts who it was into `ctx.caller`

    def __post_init__(self) -> None:
        if not self.resource:
            object.__setattr__(self, "resource", _resource_in(self.path))


def _resource_in(path: str) -> str:
    """`…/{ws}/models/{name}/versions/{version}/x` -> `models/{name}/versions/{version}`."""
    segments = re.split(r"/\{(?:ws|reg)\}/", path, maxsplit=1)[1:] or [""]
    segments = segments[0].split("/")
    pairs = zip(segments[::2], segments[1::2], strict=False)
    found = list(pairs)
    ends = next((at for at, (type, name) in enumerate(found) if type[:1] == "{" or not _is_name(name)), None)
    return "/".join(f"{type}/{name}" for type, name in found[:ends])


def _is_name(segment: str) -> bool:
    return segment.startswith("{") and not segment.endswith(":path}")


def resource_below(resource: str, params: dict[str, str]) -> str:
    """The path of the single resource below its workspace. Raises InvalidRequest for names that are none."""
    if not resource:
        return ""
    parts: list[str] = []
    for segment in resource.split("/"):
        if segment.startswith("{"):
            segment = params[segment[1:-1]]
            check_segment(segment)
        parts.append(segment)
    return "/".join(parts)


def check_segment(text: str) -> None:
    """A part of a scope is one name: with an encoded slash in it it would read like another scope."""
    if "/" in text or "\\" in text or not text.isprintable() or text in (".", ".."):
        raise InvalidRequest(f"{text[:80]!r} is no name: a segment of the path has '/' or the like in it.")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return bytes_response(_encode(value), status, headers)


def bytes_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON body that is already encoded."""
    return _Encoded(body, status, headers or {})


class _Encoded(Response):
    """Starlette's response without its search for what its headers may lack."""

    media_type = "application/json"

    def __init__(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        for name, value in headers.items():
            self.raw_headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))


class Upgrade(Response):
    """What a route with the method UPGRADE answers: `talk` has the line, accepts it, and holds it until it
    returns."""

    def __init__(self, talk: Callable[[WebSocket], Awaitable[None]]) -> None:
        self.status_code = 101
        self.background = None
        self.body = b""
        self.raw_headers = []
        self._talk = talk

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            await self._talk(WebSocket(scope, receive, send))


@dataclass(slots=True)
class _Branch:
    static: dict[str, _Branch] = field(default_factory=dict)
    variable: _Branch | None = None
    variable_routes: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)  # {rest:path}
    routes: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)


class Router:
    """Finds a route by walking the path once: cost by its depth, not by the number of routes."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._root = _Branch()
        self.routes: list[Route] = []
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        branch, names, rest = self._root, [], False
        for segment in filter(None, route.path.split("/")):
            if segment.startswith("{") and segment.endswith(":path}"):
                names.append(segment[1:-6])
                rest = True
            elif segment.startswith("{"):
                names.append(segment[1:-1])
                branch.variable = branch.variable or _Branch()
                branch = branch.variable
            else:
                branch = branch.static.setdefault(segment.lower(), _Branch())
        table = branch.variable_routes if rest else branch.routes
        if route.method in table:
            raise ValueError(f"two routes for {route.method} {route.path}")
        table[route.method] = (route, tuple(names))
        self.routes.append(route)

    def match(self, method: str, raw_path: str) -> tuple[Route | None, dict[str, str], tuple[str, ...]]:
        """-> (route, params, methods that exist on this path). `raw_path` is still percent-encoded, so an
        encoded slash stays inside its segment."""
        segments = [s for s in raw_path.split("/") if s]
        found = self._walk(self._root, segments, [s.lower() for s in segments], [])
        if found is None:
            return None, {}, ()
        table, values = found
        entry = table.get(method) or (table.get("GET") if method == "HEAD" else None)
        if entry is None:
            return None, {}, tuple(table)
        route, names = entry
        params = {n: unquote(v) if "%" in v else v for n, v in zip(names, values, strict=True)}
        return route, params, tuple(table)

    def _walk(
        self, branch: _Branch, segments: list[str], folded: list[str], values: list[str]
    ) -> tuple[dict[str, tuple[Route, tuple[str, ...]]], list[str]] | None:
        """`segments` below `branch`, and the same in lower case. A static segment goes before a variable,
        a variable before the remainder."""
        for at, segment in enumerate(folded):
            following, variable = branch.static.get(segment), branch.variable
            if following is not None and (variable is not None or branch.variable_routes):
                found = self._walk(following, segments[at + 1 :], folded[at + 1 :], values.copy())
                if found is not None:
                    return found
                following = None
            if following is not None:
                branch = following
                continue
            if branch.variable_routes:
                rest = branch.variable_routes, [*values, "/".join(segments[at:])]
                if variable is None:
                    return rest
                values.append(segments[at])
                return self._walk(variable, segments[at + 1 :], folded[at + 1 :], values) or rest
            if variable is None:
                return None
            values.append(segments[at])
            branch = variable
        if branch.routes:
            return branch.routes, values
        return (branch.variable_routes, [*values, ""]) if branch.variable_routes else None
