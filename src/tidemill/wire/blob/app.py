"""The blob service as a bare ASGI app: find the operation, prove the right to it, carry it out."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tidemill.data.blobstore import BlobStore
from tidemill.domain.errors import TidemillError
from tidemill.domain.listening import LOCAL_NAMES, misdirected
from tidemill.wire.blob import containers, copying, reading, writing, xml
from tidemill.wire.blob.auth import Authenticator, BlobAccess
from tidemill.wire.blob.call import Call, Receive, Send
from tidemill.wire.blob.errors import ClientGone, StorageError, from_domain, not_offered
from tidemill.wire.blob.sas import Need
from tidemill.wire.blob.service import WORKERS, Service

log = logging.getLogger("tidemill.data")

Handler = Callable[[Service, Call], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Operation:
    handler: Handler
    need: Need


_CONTAINER = Need("", "c", service=False)
_OPERATIONS: dict[tuple[str, str, str], Operation] = {
    # (level, method, comp)
    ("account", "GET", "list"): Operation(containers.list_containers, Need("l", "s", service=False)),
    ("account", "GET", "properties"): Operation(containers.service_properties, Need("r", "s", service=False)),
    ("container", "PUT", ""): Operation(containers.create, Need("cw", "c", service=False)),
    ("container", "GET", ""): Operation(containers.properties, Need("r", "c", service=False)),
    ("container", "GET", "metadata"): Operation(containers.properties, Need("r", "c", service=False)),
    ("container", "PUT", "metadata"): Operation(containers.set_metadata, Need("w", "c", service=False)),
    ("container", "GET", "acl"): Operation(containers.access_policy, _CONTAINER),
    ("container", "DELETE", ""): Operation(containers.delete, Need("d", "c", service=False)),
    ("container", "GET", "list"): Operation(containers.list_blobs, Need("l", "c")),
    ("blob", "GET", ""): Operation(reading.get, Need("r", "o")),
    ("blob", "HEAD", ""): Operation(reading.head, Need("r", "o")),
    ("blob", "GET", "metadata"): Operation(reading.metadata, Need("r", "o")),
    ("blob", "GET", "blocklist"): Operation(reading.block_list, Need("r", "o")),
    ("blob", "PUT", ""): Operation(writing.put, Need("cw", "o")),
    ("blob", "PUT", "block"): Operation(writing.put_block, Need("cw", "o")),
    ("blob", "PUT", "blocklist"): Operation(writing.put_block_list, Need("cw", "o")),
    ("blob", "PUT", "appendblock"): Operation(writing.append_block, Need("aw", "o")),
    ("blob", "PUT", "metadata"): Operation(writing.set_metadata, Need("w", "o")),
    ("blob", "PUT", "properties"): Operation(writing.set_properties, Need("w", "o")),
    ("blob", "DELETE", ""): Operation(writing.delete, Need("d", "o")),
    # chosen by a header or a restype
    ("blob", "PUT", "+copy"): Operation(copying.copy, Need("cw", "o")),
    ("blob", "PUT", "+url"): Operation(copying.put_from_url, Need("cw", "o")),
    ("any", "GET", "+account"): Operation(containers.account_info, Need("racwdlupi", "sco")),
}


class BlobApp:
    """`hosts`: the names of this server; `refused` is told of each call that was. `close()` after the last
    request."""

    def __init__(
        self,
        store: BlobStore,
        access: BlobAccess,
        now: Callable[[], int],
        authority: str = "https://localhost",
        hosts: frozenset[str] = frozenset(LOCAL_NAMES),
        refused: Callable[[Call, StorageError], None] | None = None,
    ) -> None:
        self._hosts = hosts
        self._refused = refused
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="blob")
        auth = Authenticator(access, store.account_scope, now, authority)
        self._service = Service(store, auth, now, pool)

    def close(self) -> None:
        self._service.pool.shutdown(wait=True)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        request_id = os.urandom(16).hex()
        call: Call | None = None
        try:
            call = Call(scope, receive, send, request_id)
            problem = misdirected(call.host, self._hosts)
            if problem is not None:
                raise StorageError("MisdirectedRequest", problem, 421)
            if not call.account:
                await _outside(call)
                return
            operation = _find(call)
            if self._service.store.account_scope(call.account) is None:
                raise StorageError("ResourceNotFound", f"There is no storage account {call.account!r}.")
            call.grant = await self._service.auth.grant(call, operation.need)
            await operation.handler(self._service, call)
        except ClientGone:
            return
        except Exception as error:
            self._tell_refused(call, error)
            await _refuse(scope, send, call, request_id, error)

    def _tell_refused(self, call: Call | None, error: Exception) -> None:
        if call is None or self._refused is None or not isinstance(error, StorageError):
            return
        if error.status in (401, 403):
            self._refused(call, error)


def _find(call: Call) -> Operation:
    method, comp = call.method, call.query.get("comp", "").lower()
    restype = call.query.get("restype", "").lower()
    level = "blob" if call.name else "container" if call.container else "account"
    if level == "container" and restype not in ("container", "account"):
        level = "root"  # `/account/blob`: a blob of $root
    if restype == "account" and comp == "properties":
        level, method, comp = "any", "GET" if method == "HEAD" else method, "+account"
    if level == "root":
        call.name, call.container, level = call.container, "$root", "blob"
    if (level, method, comp) == ("blob", "PUT", "") and "x-ms-copy-source" in call.headers:
        comp = "+url" if "x-ms-blob-type" in call.headers else "+copy"
    operation = _OPERATIONS.get((level, method, comp))
    if operation is None and method == "HEAD":
        operation = _OPERATIONS.get((level, "GET", comp))
    if operation is None:
        what = f"{call.method} {level}" + (f" comp={comp.lstrip('+')}" if comp else "")
        raise not_offered(what)
    return operation


async def _outside(call: Call) -> None:
    """Addresses without an account."""
    if call.raw_path in ("/", "/healthz") and call.method in ("GET", "HEAD"):
        await call.answer(200, {"content-type": "text/plain"}, b"Tidemill blob service\n")
        return
    raise StorageError(
        "ResourceNotFound",
        f"{call.raw_path[:200]!r} names no storage account: addresses are "
        f"/ACCOUNT.blob.core.windows.net/CONTAINER/BLOB.",
    )


async def _refuse(
    scope: dict[str, Any], send: Send, call: Call | None, request_id: str, error: Exception
) -> None:
    """An answer in XML; where one has begun, the connection is closed by raising again."""
    if call is not None and call.started:
        raise error
    if isinstance(error, TidemillError):
        error = from_domain(error)
    if not isinstance(error, StorageError):
        log.error("%s %s failed, request id %s", scope["method"], scope["path"], request_id, exc_info=error)
        error = StorageError("InternalError", f"The server failed; its log says why: {request_id}.")
    body = b"" if error.status == 304 else xml.error(error.code, error.message, error.more)
    headers = {"content-type": "application/xml", "x-ms-error-code": error.code, **error.headers}
    if call is None:
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        raw.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": error.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})
        return
    await call.answer(error.status, headers, body)
