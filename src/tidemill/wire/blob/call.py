"""One request of the blob service, parsed, and the ways to answer it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

from tidemill.data.bloburls import ENDPOINT, account_of_segment
from tidemill.domain.activity import MAX_AGENT, MAX_RESOURCE, Outcome, Record, plain
from tidemill.domain.units import parse_whole
from tidemill.wire.blob.errors import ClientGone, StorageError
from tidemill.wire.blob.grant import Grant

DEFAULT_VERSION = "2021-12-02"

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Call:
    """`container` and `name` are "" where the address does not name them. Header names are lower case."""

    __slots__ = (
        "account",
        "client",
        "container",
        "grant",
        "headers",
        "host",
        "method",
        "name",
        "query",
        "raw_path",
        "raw_query",
        "receive",
        "request_id",
        "secure",
        "send",
        "started",
    )

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send, request_id: str) -> None:
        self.method: str = scope["method"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.host = self.headers.get("host", "")
        self.raw_path = scope["raw_path"].decode("latin-1")
        self.raw_query = scope["query_string"].decode("latin-1")
        self.secure = scope["scheme"] == "https"
        self.client = (scope.get("client") or ("",))[0]
        self.receive = receive
        self.send = send
        self.request_id = request_id
        self.grant = Grant(frozenset(), {})
        self.started = False
        self.query = parse_query(self.raw_query)
        first, _, rest = self.raw_path.lstrip("/").partition("/")
        self.account = account_of_segment(unquote(first)) or ""
        container, _, name = rest.partition("/")
        self.container = unquote(container)
        try:
            self.name = unquote(name, errors="strict")
        except UnicodeDecodeError as error:
            raise StorageError("InvalidUri", "The blob's name is not percent-encoded UTF-8.") from error

    @property
    def endpoint(self) -> str:
        """`https://localhost:8445/acct.blob.core.windows.net/`"""
        return f"{'https' if self.secure else 'http'}://{self.host}/{self.account}{ENDPOINT}/"

    def content_length(self) -> int:
        """Raises MissingContentLengthHeader: chunked bodies are refused, as Azure does."""
        length = parse_whole(self.headers.get("content-length", ""))
        if length is None:
            raise StorageError("MissingContentLengthHeader", "Content-Length HTTP header is not present.")
        return length

    async def chunk(self) -> tuple[bytes, bool]:
        """-> (bytes of the body, more follow)."""
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message.get("body", b""), message.get("more_body", False)

    async def body(self, limit: int) -> bytes:
        """A small body whole. Raises RequestBodyTooLarge (413)."""
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            data, more = await self.chunk()
            size += len(data)
            if size > limit:
                raise StorageError("RequestBodyTooLarge", f"The body has more than {limit} bytes.", 413)
            parts.append(data)
        return b"".join(parts)

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """Sends the status and headers; `content-length` must be among them unless the status has no body."""
        raw = [
            (name.encode("latin-1"), value.replace("\r", " ").replace("\n", " ").encode("latin-1", "replace"))
            for name, value in headers.items()
        ]
        raw.append((b"date", formatdate(usegmt=True).encode()))
        raw.append((b"x-ms-request-id", self.request_id.encode()))
        raw.append((b"x-ms-version", self.headers.get("x-ms-version", DEFAULT_VERSION).encode("latin-1")))
        client_id = self.headers.get("x-ms-client-request-id")
        if client_id:
            raw.append((b"x-ms-client-request-id", client_id.encode("latin-1")))
        self.started = True
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """A whole answer. A HEAD's body is left out by the server, its length is not."""
        said = dict(headers or {})
        if status != 304:
            said.setdefault("content-length", str(len(body)))
        await self.start(status, said)
        await self.send({"type": "http.response.body", "body": body if status != 304 else b""})

    async def answer_xml(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        await self.answer(status, {"content-type": "application/xml", **(headers or {})}, body)


def parse_query(raw_query: str) -> dict[str, str]:
    """`+` stays a plus: clients of this service write a space as %20, and base64 has pluses."""
    query: dict[str, str] = {}
    for part in raw_query.split("&"):
        if part:
            name, _, value = part.partition("=")
            query[unquote(name).lower()] = unquote(value)
    return query


def refusal_of(call: Call, scope: str, error: StorageError, now: int) -> Record:
    """A record for the activity log. Who it was is not known: keys and signatures have no name. `scope`:
    the ARM id of the account's workspace, "" where there is none."""
    verb = {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(call.method, "write")
    return Record(
        now,
        f"Microsoft.Storage/storageAccounts/blobServices/containers/blobs/{verb}",
        Outcome.REFUSED,
        actor_kind="anonymous",
        address=call.client,
        agent=plain(call.headers.get("user-agent", ""), MAX_AGENT),
        scope=scope,
        resource=plain(call.raw_path, MAX_RESOURCE),  # without the query, which may be a signature
        method=call.method,
        status=error.status,
        code=error.code,
    )
