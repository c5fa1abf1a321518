"""Get Blob, its properties and its block list. Bytes go out in chunks, as fast as the client takes them."""

from __future__ import annotations

import asyncio
import hashlib
import os

from tidemill.data.blobmodel import BlobInfo
from tidemill.wire.blob import xml
from tidemill.wire.blob.call import Call
from tidemill.wire.blob.errors import StorageError, invalid_header, invalid_query, not_offered
from tidemill.wire.blob.headers import MAX_RANGE_MD5, Conditions, http_date, md5_text, parse_range, quoted
from tidemill.wire.blob.service import Service

CHUNK = 256 << 10
_YIELD_EVERY = 16  # chunks: a client that takes everything at once must not hold the loop


async def get(service: Service, call: Call) -> None:
    _refuse_versions(call)
    opened = service.store.open(call.account, call.container, call.name)
    if opened is None:
        raise _missing(service, call)
    info, fd = opened
    try:
        Conditions.of(call.headers).check_read(info.etag, info.modified_at)
        part = parse_range(call.headers, info.size)
        headers = blob_headers(info) | dict(call.grant.overrides)
        if part is None:
            await call.start(200, headers | {"content-length": str(info.size)})
            await _stream(service, call, fd, 0, info.size)
        else:
            offset, length = part
            headers |= await _part_headers(service, call, info, fd, offset, length)
            await call.start(206, headers)
            await _stream(service, call, fd, offset, length)
    finally:
        os.close(fd)


async def head(service: Service, call: Call) -> None:
    _refuse_versions(call)
    info = _need(service, call)
    headers = blob_headers(info) | dict(call.grant.overrides)
    await call.answer(200, headers | {"content-length": str(info.size)})


async def metadata(service: Service, call: Call) -> None:
    info = _need(service, call)
    headers = {f"x-ms-meta-{name}": value for name, value in info.metadata.items()}
    await call.answer(200, headers | state_headers(info))


async def block_list(service: Service, call: Call) -> None:
    asked = call.query.get("blocklisttype", "committed").lower()
    if asked not in ("committed", "uncommitted", "all"):
        raise invalid_query("blocklisttype", asked, "use committed, uncommitted or all")
    info = service.store.get(call.account, call.container, call.name)
    committed, waiting = await service.in_thread(
        service.store.blocks, call.account, call.container, call.name
    )
    headers = {"x-ms-blob-content-length": str(info.size if info else 0)} | (
        state_headers(info) if info else {}
    )
    body = xml.block_list(
        None if asked == "uncommitted" else committed, None if asked == "committed" else waiting
    )
    await call.answer_xml(200, body, headers)


def state_headers(info: BlobInfo) -> dict[str, str]:
    """What every answer about a blob carries."""
    return {"etag": quoted(info.etag), "last-modified": http_date(info.modified_at)}


def blob_headers(info: BlobInfo) -> dict[str, str]:
    headers = {
        "content-type": info.content_type,
        "accept-ranges": "bytes",
        "x-ms-creation-time": http_date(info.created_at),
        "x-ms-blob-type": info.kind,
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-server-encrypted": "false",
        **state_headers(info),
        **info.headers,
    }
    if info.md5:
        headers["content-md5"] = md5_text(info.md5)
    if info.kind == "AppendBlob":
        headers["x-ms-blob-committed-block-count"] = str(info.parts)
    for name, value in info.metadata.items():
        headers[f"x-ms-meta-{name}"] = value
    return headers


async def _part_headers(
    service: Service, call: Call, info: BlobInfo, fd: int, offset: int, length: int
) -> dict[str, str]:
    headers = {
        "content-length": str(length),
        "content-range": f"bytes {offset}-{offset + length - 1}/{info.size}",
    }
    if call.headers.get("x-ms-range-get-content-md5", "").lower() == "true":
        if length > MAX_RANGE_MD5:
            raise invalid_header(
                "x-ms-range-get-content-md5", "true", f"the range must have at most {MAX_RANGE_MD5} bytes"
            )
        headers["content-md5"] = md5_text(await service.in_thread(_md5_of_range, fd, offset, length))
    elif info.md5:
        headers["content-md5"] = ""
    if info.md5:
        headers["x-ms-blob-content-md5"] = md5_text(info.md5)
    return headers


async def _stream(service: Service, call: Call, fd: int, offset: int, length: int) -> None:
    """Reads what is in memory at once and only what is not in a thread; waits while the client is slow."""
    sent = 0
    chunks = 0
    while sent < length:
        wanted = min(CHUNK, length - sent)
        data = _read_cached(fd, offset + sent, wanted)
        if not data:
            data = await service.in_thread(os.pread, fd, wanted, offset + sent)
        if not data:
            raise OSError(f"the file of {call.container}/{call.name} is {length - sent} bytes too short")
        sent += len(data)
        await call.send({"type": "http.response.body", "body": data, "more_body": sent < length})
        chunks += 1
        if chunks % _YIELD_EVERY == 0:
            await asyncio.sleep(0)
    if length == 0:
        await call.send({"type": "http.response.body", "body": b""})


def _read_cached(fd: int, offset: int, length: int) -> bytes | memoryview:
    """What the page cache holds from there, up to `length`; b"" where the disk would have to be asked."""
    buffer = bytearray(length)
    try:
        count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except (BlockingIOError, OSError):
        return b""
    return memoryview(buffer)[:count] if count else b""


def _md5_of_range(fd: int, offset: int, length: int) -> bytes:
    return hashlib.md5(os.pread(fd, length, offset), usedforsecurity=False).digest()


def _need(service: Service, call: Call) -> BlobInfo:
    info = service.store.get(call.account, call.container, call.name)
    if info is None:
        raise _missing(service, call)
    Conditions.of(call.headers).check_read(info.etag, info.modified_at)
    return info


def _missing(service: Service, call: Call) -> StorageError:
    if service.store.container(call.account, call.container) is None:
        return StorageError("ContainerNotFound", f"There is no container {call.container!r}.")
    return StorageError("BlobNotFound", f"Container {call.container!r} has no blob {call.name!r}.")


def _refuse_versions(call: Call) -> None:
    for name in ("snapshot", "versionid"):
        if name in call.query:
            raise not_offered(f"Reading by {name}")
