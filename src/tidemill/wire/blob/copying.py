"""Copy Blob and Put Blob From URL, within this service: a copy is a second link to immutable bytes."""

from __future__ import annotations

import os
from dataclasses import replace
from urllib.parse import urlsplit

from tidemill.data.blobmodel import BlobInfo, BlobProperties, Check
from tidemill.data.bloburls import resolve_blob_url
from tidemill.wire.blob.auth import place_of
from tidemill.wire.blob.call import Call, parse_query
from tidemill.wire.blob.errors import StorageError, invalid_header
from tidemill.wire.blob.headers import Conditions, http_date, md5_text, parse_metadata, parse_properties
from tidemill.wire.blob.reading import state_headers
from tidemill.wire.blob.sas import Need
from tidemill.wire.blob.service import Service
from tidemill.wire.blob.writing import overwrite_check, properties_of

_READ = Need("r", "o")
_TRIES = 16


async def copy(service: Service, call: Call) -> None:
    """Copy Blob: done when it is answered."""
    source = await _source(service, call)
    metadata = parse_metadata(call.headers)
    kept = properties_of(source)
    copied = {
        "x-ms-copy-id": _copy_id(),
        "x-ms-copy-source": call.headers["x-ms-copy-source"].partition("?")[0],
        "x-ms-copy-status": "success",
        "x-ms-copy-progress": f"{source.size}/{source.size}",
        "x-ms-copy-completion-time": http_date(service.now()),
    }
    properties = replace(kept, metadata=metadata or kept.metadata, headers=kept.headers | copied)
    info = await service.in_thread(_link, service, call, source, properties, overwrite_check(call))
    answer = {name: copied[name] for name in ("x-ms-copy-id", "x-ms-copy-status")}
    await call.answer(202, state_headers(info) | answer)


async def put_from_url(service: Service, call: Call) -> None:
    """Put Blob From URL (x-ms-blob-type: BlockBlob): the source's properties unless told otherwise."""
    source = await _source(service, call)
    given = parse_properties(call.headers, body_is_blob=False)
    kept = properties_of(source)
    properties = given
    if call.headers.get("x-ms-copy-source-blob-properties", "true").lower() == "true":
        said_type = "x-ms-blob-content-type" in call.headers
        properties = BlobProperties(
            given.content_type if said_type else kept.content_type,
            given.metadata or kept.metadata,
            kept.headers | given.headers,
            given.md5 or kept.md5,
        )
    info = await service.in_thread(_link, service, call, source, properties, overwrite_check(call))
    headers = state_headers(info) | {"x-ms-request-server-encrypted": "false"}
    if info.md5:
        headers["content-md5"] = md5_text(info.md5)
    await call.answer(201, headers)


async def _source(service: Service, call: Call) -> BlobInfo:
    """The blob to copy, once the caller may read it."""
    url = call.headers["x-ms-copy-source"]
    try:
        account, container, name = resolve_blob_url(url)
    except ValueError as error:
        raise invalid_header("x-ms-copy-source", url[:200], "use the address of a blob") from error
    parts = urlsplit(url)
    if account is None or parts.netloc != call.host or not name:
        raise StorageError(
            "CannotVerifyCopySource",
            f"The copy source {url.partition('?')[0]!r} is not a blob of this service ({call.host}).",
            400,
        )
    if service.store.account_scope(account) is None:
        raise StorageError("CannotVerifyCopySource", f"There is no storage account {account!r}.")
    query = parse_query(parts.query)
    if "sig" in query:
        await service.auth.sas_grant(query, place_of(call, account, container, name), _READ)
    elif account != call.account or call.grant.letters is not None:
        raise StorageError(
            "CannotVerifyCopySource",
            "The copy source is not readable with this authorization: add a SAS with permission r to it.",
            401,
        )
    info = service.store.get(account, container, name)
    if info is None:
        raise StorageError("CannotVerifyCopySource", f"Container {container!r} has no blob {name!r}.")
    try:
        Conditions.of(call.headers, "x-ms-source-").check_read(info.etag, info.modified_at)
    except StorageError as error:
        raise StorageError("SourceConditionNotMet", error.message) from error
    return info


def _link(
    service: Service, call: Call, source: BlobInfo, properties: BlobProperties, check: Check
) -> BlobInfo:
    for _ in range(_TRIES):
        try:
            return service.store.copy_blob(
                source, call.account, call.container, call.name, properties, check=check
            )
        except FileNotFoundError:  # overwritten meanwhile
            now = service.store.get(source.account, source.container, source.name)
            if now is None:
                break
            source = now
    raise StorageError("CannotVerifyCopySource", f"Blob {source.name!r} is gone.")


def _copy_id() -> str:
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
