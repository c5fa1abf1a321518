"""Operations on the account and on containers."""

from __future__ import annotations

import re

from tidemill.data.blobmodel import ContainerInfo
from tidemill.domain.units import parse_whole
from tidemill.wire.blob import xml
from tidemill.wire.blob.call import Call
from tidemill.wire.blob.errors import StorageError, invalid_query
from tidemill.wire.blob.headers import Conditions, http_date, parse_metadata, quoted
from tidemill.wire.blob.service import Service

MAX_RESULTS = 5000
_NAME = re.compile(r"\$root|\$logs|\$web|[a-z0-9](?:-?[a-z0-9])*")
_SERVICE = (
    f"{xml.HEAD}<StorageServiceProperties><Logging><Version>1.0</Version><Delete>false</Delete><Read>false</Read>"
    "<Write>false</Write><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy></Logging><HourMetrics>"
    "<Version>1.0</Version><Enabled>false</Enabled><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>"
    "</HourMetrics><MinuteMetrics><Version>1.0</Version><Enabled>false</Enabled><RetentionPolicy><Enabled>false"
    "</Enabled></RetentionPolicy></MinuteMetrics><Cors /><DeleteRetentionPolicy><Enabled>false</Enabled>"
    "</DeleteRetentionPolicy><StaticWebsite><Enabled>false</Enabled></StaticWebsite></StorageServiceProperties>"
).encode()


async def account_info(service: Service, call: Call) -> None:
    await call.answer(
        200,
        {"x-ms-sku-name": "Standard_LRS", "x-ms-account-kind": "StorageV2", "x-ms-is-hns-enabled": "false"},
    )


async def service_properties(service: Service, call: Call) -> None:
    await call.answer_xml(200, _SERVICE)


async def list_containers(service: Service, call: Call) -> None:
    query = call.query
    limit = max_results(query)
    marker = xml.decode_marker(query.get("marker", ""))
    prefix = query.get("prefix", "")
    found = [
        info
        for info in service.store.containers(call.account)
        if info.name.startswith(prefix) and info.name >= marker
    ]
    following = found[limit].name if len(found) > limit else ""
    body = xml.container_list(
        call.endpoint,
        _asked(query),
        found[:limit],
        following,
        metadata="metadata" in query.get("include", "").split(","),
    )
    await call.answer_xml(200, body)


async def create(service: Service, call: Call) -> None:
    if not _NAME.fullmatch(call.container) or not 3 <= len(call.container) <= 63:
        raise StorageError(
            "InvalidResourceName",
            f"Container name {call.container[:80]!r} is not valid: use 3 to 63 lower-case letters, digits "
            "and single '-'.",
        )
    metadata = parse_metadata(call.headers)
    info = await service.in_thread(
        service.store.ensure_container, call.account, call.container, metadata=metadata, new=True
    )
    await call.answer(201, _headers(info))


async def properties(service: Service, call: Call) -> None:
    info = _need(service, call)
    headers = _headers(info) | {f"x-ms-meta-{name}": value for name, value in info.metadata.items()}
    headers |= {
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-has-immutability-policy": "false",
        "x-ms-has-legal-hold": "false",
    }
    await call.answer(200, headers)


async def set_metadata(service: Service, call: Call) -> None:
    info = _need(service, call)
    Conditions.of(call.headers).check_write(info.etag, info.modified_at)
    info = await service.in_thread(
        service.store.set_container_metadata, call.account, call.container, parse_metadata(call.headers)
    )
    await call.answer(200, _headers(info))


async def access_policy(service: Service, call: Call) -> None:
    """There are none: containers are private and SAS carry their own terms."""
    info = _need(service, call)
    await call.answer_xml(200, f"{xml.HEAD}<SignedIdentifiers />".encode(), _headers(info))


async def delete(service: Service, call: Call) -> None:
    conditions = Conditions.of(call.headers)

    def check(info: ContainerInfo) -> None:
        conditions.check_write(info.etag, info.modified_at)

    await service.in_thread(service.store.delete_container, call.account, call.container, check)
    await call.answer(202)


async def list_blobs(service: Service, call: Call) -> None:
    query = call.query
    include = query.get("include", "").lower().split(",")
    page = await service.in_thread(
        service.store.list,
        call.account,
        call.container,
        query.get("prefix", ""),
        query.get("delimiter", ""),
        xml.decode_marker(query.get("marker", "")),
        max_results(query),
        uncommitted="uncommittedblobs" in include,
    )
    body = xml.blob_list(
        call.endpoint,
        call.container,
        _asked(query),
        page,
        metadata="metadata" in include,
        copies="copy" in include,
    )
    await call.answer_xml(200, body)


def max_results(query: dict[str, str]) -> int:
    text = query.get("maxresults", "")
    if not text:
        return MAX_RESULTS
    number = parse_whole(text)
    if not number:
        raise invalid_query("maxresults", text, f"use 1 to {MAX_RESULTS}")
    return min(number, MAX_RESULTS)


def _asked(query: dict[str, str]) -> dict[str, str]:
    names = {"prefix": "Prefix", "marker": "Marker", "maxresults": "MaxResults", "delimiter": "Delimiter"}
    return {name: query.get(parameter, "") for parameter, name in names.items()}


def _need(service: Service, call: Call) -> ContainerInfo:
    info = service.store.container(call.account, call.container)
    if info is None:
        raise StorageError("ContainerNotFound", f"There is no container {call.container!r}.")
    return info


def _headers(info: ContainerInfo) -> dict[str, str]:
    return {"etag": quoted(info.etag), "last-modified": http_date(info.modified_at)}
