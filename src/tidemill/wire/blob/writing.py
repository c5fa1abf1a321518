"""Operations that change blobs. Bodies are streamed to a file while they come in; nothing is held but the
chunk that is being hashed and written."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from dataclasses import replace

from tidemill.data.blobfiles import Upload
from tidemill.data.blobmodel import BlobInfo, BlobProperties, Check
from tidemill.domain.units import parse_whole
from tidemill.wire.blob import xml
from tidemill.wire.blob.call import Call
from tidemill.wire.blob.errors import (
    StorageError,
    invalid_header,
    invalid_query,
    not_offered,
    permission_mismatch,
)
from tidemill.wire.blob.headers import (
    Conditions,
    check_md5,
    md5_text,
    parse_md5,
    parse_metadata,
    parse_properties,
)
from tidemill.wire.blob.reading import state_headers
from tidemill.wire.blob.service import Service, T

CHUNK = 1 << 20
MAX_BLOCK_LIST = 8 << 20
_UNCHECKED = ("x-ms-content-crc64", "x-ms-structured-body")
_PROPERTY_HEADERS = ("content-encoding", "content-language", "content-disposition", "cache-control")


async def put(service: Service, call: Call) -> None:
    kind = call.headers.get("x-ms-blob-type", "")
    if kind not in ("BlockBlob", "AppendBlob"):
        if kind == "PageBlob":
            raise not_offered("The blob type PageBlob")
        raise invalid_header("x-ms-blob-type", kind, "use BlockBlob or AppendBlob")
    length = call.content_length()
    if kind == "AppendBlob" and length:
        raise invalid_header("content-length", str(length), "an append blob is made empty, then appended to")
    properties = parse_properties(call.headers, body_is_blob=True)
    check = _check(call)
    _check_early(service, call, check)

    def finish(upload: Upload) -> BlobInfo:
        _verify_body(call, upload, properties.md5)
        return service.store.commit_upload(
            upload, call.account, call.container, call.name, properties, kind=kind, check=check
        )

    info = await _receive(service, call, length, finish)
    headers = state_headers(info) | {"x-ms-request-server-encrypted": "false"}
    if info.md5:
        headers["content-md5"] = md5_text(info.md5)
    await call.answer(201, headers)


async def put_block(service: Service, call: Call) -> None:
    block_id = call.query.get("blockid", "")
    _check_block_id(block_id)
    _refuse_copy_source(call, "Put Block From URL")
    length = call.content_length()
    _need_container(service, call)

    def finish(upload: Upload) -> bytes | None:
        _verify_body(call, upload, None)
        md5 = upload.md5
        service.store.stage_block(upload, call.account, call.container, call.name, block_id)
        return md5

    md5 = await _receive(service, call, length, finish)
    headers = {"x-ms-request-server-encrypted": "false"}
    if md5:
        headers["content-md5"] = md5_text(md5)
    await call.answer(201, headers)


async def put_block_list(service: Service, call: Call) -> None:
    call.content_length()
    body = await call.body(MAX_BLOCK_LIST)
    check_md5(parse_md5(call.headers, "content-md5"), _md5(body))
    refs = xml.parse_block_list(body)
    properties = parse_properties(call.headers, body_is_blob=False)
    info = await service.in_thread(
        service.store.commit_blocks,
        call.account,
        call.container,
        call.name,
        refs,
        properties,
        check=_check(call),
    )
    await call.answer(201, state_headers(info) | {"x-ms-request-server-encrypted": "false"})


async def append_block(service: Service, call: Call) -> None:
    _refuse_copy_source(call, "Append Block From URL")
    length = call.content_length()
    conditions = Conditions.of(call.headers)
    position = _number(call, "x-ms-blob-condition-appendpos")
    largest = _number(call, "x-ms-blob-condition-maxsize")

    def check(info: BlobInfo | None) -> None:
        if info is None:
            return
        conditions.check_blob(info)
        if position is not None and info.size != position:
            raise StorageError(
                "AppendPositionConditionNotMet", f"The blob has {info.size} bytes, not {position}."
            )
        if largest is not None and info.size + length > largest:
            raise StorageError(
                "MaxBlobSizeConditionNotMet", f"The blob would have more than {largest} bytes."
            )

    def finish(upload: Upload) -> tuple[BlobInfo, int, bytes | None]:
        _verify_body(call, upload, None)
        info, offset = service.store.append(call.account, call.container, call.name, upload, check=check)
        return info, offset, upload.md5

    info, offset, md5 = await _receive(service, call, length, finish)
    headers = state_headers(info) | {
        "x-ms-blob-append-offset": str(offset),
        "x-ms-blob-committed-block-count": str(info.parts),
        "x-ms-request-server-encrypted": "false",
    }
    if md5:
        headers["content-md5"] = md5_text(md5)
    await call.answer(201, headers)


async def set_metadata(service: Service, call: Call) -> None:
    values = parse_metadata(call.headers)
    await _change(service, call, lambda info: replace(info, metadata=values))


async def set_properties(service: Service, call: Call) -> None:
    given = parse_properties(call.headers, body_is_blob=False)

    def change(info: BlobInfo) -> BlobInfo:
        kept = {name: value for name, value in info.headers.items() if name not in _PROPERTY_HEADERS}
        return replace(
            info, content_type=given.content_type, md5=given.md5, headers={**kept, **given.headers}
        )

    if any(name.startswith("x-ms-blob-") for name in call.headers):
        await _change(service, call, change)
    else:
        await _change(service, call, lambda info: info)


async def delete(service: Service, call: Call) -> None:
    for name in ("snapshot", "versionid"):
        if name in call.query:
            raise not_offered(f"Deleting by {name}")
    conditions = Conditions.of(call.headers)

    def check(info: BlobInfo | None) -> None:
        if info is not None:
            conditions.check_blob(info)

    gone = await service.in_thread(service.store.delete, call.account, call.container, call.name, check=check)
    if not gone:
        raise StorageError("BlobNotFound", f"Container {call.container!r} has no blob {call.name!r}.")
    await call.answer(202, {"x-ms-delete-type-permanent": "true"})


def _check(call: Call) -> Check:
    """Conditions, and that a SAS which may only create does not overwrite."""
    conditions = Conditions.of(call.headers)

    def check(info: BlobInfo | None) -> None:
        if info is not None and not call.grant.may("w"):
            raise permission_mismatch()
        conditions.check_blob(info)

    return check


overwrite_check = _check


async def _change(service: Service, call: Call, change: Callable[[BlobInfo], BlobInfo]) -> None:
    info = await service.in_thread(
        service.store.set_properties,
        call.account,
        call.container,
        call.name,
        change,
        Conditions.of(call.headers).check_blob,
    )
    await call.answer(200, state_headers(info) | {"x-ms-request-server-encrypted": "false"})


async def _receive(service: Service, call: Call, length: int, finish: Callable[[Upload], T]) -> T:
    """Streams the body into an upload, then runs `finish` on it in a thread. While a chunk is hashed and
    written the next one comes in; a client that is faster than the disk is held back."""
    for name in _UNCHECKED:
        if name in call.headers:
            raise not_offered(f"The header {name}")
    if length <= CHUNK:
        body = await _exactly(call, length)
        return await service.in_thread(_write_and_finish, service, body, finish)
    upload = await service.in_thread(service.store.begin_upload, length)
    writing: asyncio.Future[None] | None = None
    try:
        waiting: list[bytes] = []
        size, more = 0, True
        while more:
            data, more = await call.chunk()
            waiting.append(data)
            size += len(data)
            if size >= CHUNK or not more:
                if writing is not None:
                    await writing
                writing = service.in_thread(upload.write, waiting)
                waiting, size = [], 0
        if writing is not None:
            await writing
    except BaseException:
        await _settle(writing)
        await service.in_thread(upload.discard)
        raise
    return await service.in_thread(_finish, upload, length, finish)


async def _settle(writing: asyncio.Future[None] | None) -> None:
    """Waits for a write in flight, whatever becomes of it: the file must not be closed under it."""
    if writing is not None and not writing.done():
        await asyncio.wait([writing])
    if writing is not None and writing.done() and not writing.cancelled():
        writing.exception()


async def _exactly(call: Call, length: int) -> list[bytes]:
    parts: list[bytes] = []
    more = True
    while more:
        data, more = await call.chunk()
        parts.append(data)
    return parts


def _write_and_finish(service: Service, body: list[bytes], finish: Callable[[Upload], T]) -> T:
    length = sum(map(len, body))
    upload = service.store.begin_upload(length)
    try:
        upload.write(body)
    except BaseException:
        upload.discard()
        raise
    return _finish(upload, length, finish)


def _finish(upload: Upload, length: int, finish: Callable[[Upload], T]) -> T:
    try:
        if upload.size != length:
            raise StorageError(
                "InvalidInput", f"The body has {upload.size} bytes; Content-Length says {length}."
            )
        return finish(upload)
    except BaseException:
        if upload.fd >= 0:  # still ours: the store closes what it was given
            upload.discard()
        raise


def _verify_body(call: Call, upload: Upload, blob_md5: bytes | None) -> None:
    check_md5(parse_md5(call.headers, "content-md5"), upload.md5)
    check_md5(blob_md5, upload.md5)


def _check_early(service: Service, call: Call, check: Check) -> None:
    """Refuses before the body is read what the transaction would refuse after it."""
    _need_container(service, call)
    check(service.store.get(call.account, call.container, call.name))


def _need_container(service: Service, call: Call) -> None:
    if service.store.container(call.account, call.container) is None:
        raise StorageError("ContainerNotFound", f"There is no container {call.container!r}.")


def _check_block_id(block_id: str) -> None:
    try:
        decoded = base64.b64decode(block_id, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not 1 <= len(decoded) <= 64:
        raise invalid_query("blockid", block_id, "use the base64 of 1 to 64 bytes")


def _refuse_copy_source(call: Call, what: str) -> None:
    if "x-ms-copy-source" in call.headers:
        raise not_offered(what)


def _number(call: Call, name: str) -> int | None:
    text = call.headers.get(name)
    if text is None:
        return None
    number = parse_whole(text)
    if number is None:
        raise invalid_header(name, text, "use a number of bytes")
    return number


def _md5(body: bytes) -> bytes:
    import hashlib

    return hashlib.md5(body, usedforsecurity=False).digest()


def properties_of(info: BlobInfo) -> BlobProperties:
    """A blob's own properties, for a copy of it; what a copy left in its headers stays behind."""
    headers = {name: value for name, value in info.headers.items() if name in _PROPERTY_HEADERS}
    return BlobProperties(info.content_type, info.metadata, headers, info.md5)
