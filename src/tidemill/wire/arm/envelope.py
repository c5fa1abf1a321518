"""Rows as ARM JSON, by joining the bytes that were stored: a list of 100 is 100 joins, not 100 encodings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tidemill.app.times import iso
from tidemill.domain.ids import PROVIDER, PROVIDERS, resource_id
from tidemill.domain.model import Resource

encode = msgspec.json.Encoder().encode


def arm_id(row: Resource) -> str:
    return resource_id(row.key)


def arm_type(row: Resource) -> str:
    """`Microsoft.MachineLearningServices/workspaces/models/versions`."""
    if row.key.type == "resourceGroups":
        return "Microsoft.Resources/resourceGroups"
    if row.key.type in PROVIDERS:
        return f"{PROVIDERS[row.key.type]}/{row.key.type}"
    scope = row.key.scope
    above = "registries/" if scope.registry else "workspaces/" if scope.workspace else ""
    return f"{PROVIDER}/{above}{row.key.type}"


def join(first: bytes, second: bytes) -> bytes:
    """The members of two encoded JSON objects in one object. Members of the same name are not merged."""
    if second in (b"", b"{}"):
        return first or b"{}"
    if first in (b"", b"{}"):
        return second
    return first[:-1] + b"," + second[1:]


def system_data(row: Resource) -> bytes:
    """ARM's `systemData` object, encoded."""
    who = encode(row.created_by or "system")
    created, modified = iso(row.created_at).encode(), iso(row.modified_at or row.created_at).encode()
    return (
        b'{"createdAt":"%b","createdBy":%b,"createdByType":"User",'
        b'"lastModifiedAt":"%b","lastModifiedBy":%b,"lastModifiedByType":"User"}'
    ) % (created, who, modified, who)


def render(
    row: Resource,
    id: str = "",
    type: str = "",
    extra_properties: bytes = b"{}",
    *,
    extra: bytes = b"{}",
    properties: bytes | None = None,
) -> bytes:
    """One resource. `id` and `type` default to what the row's key says; `extra_properties` (an encoded
    object) is joined to `properties` (the stored ones unless given), `extra` to the envelope.
    `location` and, with it, `tags` appear where the row has a location (ARM's tracked resources)."""
    inner = join(row.spec if properties is None else properties, extra_properties)
    tracked = b',"location":%b,"tags":%b' % (encode(row.location), row.tags or b"{}") if row.location else b""
    body = b'{"id":%b,"name":%b,"type":%b%b,"systemData":%b,"properties":%b}' % (
        encode(id or arm_id(row)),
        encode(row.key.name),
        encode(type or arm_type(row)),
        tracked,
        system_data(row),
        inner,
    )
    return join(body, extra)


def render_list(items: Iterable[bytes], next_link: str | None = None) -> bytes:
    """`{"value":[…],"nextLink":…}` of items that are already rendered."""
    body = b'{"value":[' + b",".join(items) + b"]}"
    return join(body, encode({"nextLink": next_link})) if next_link else body


def to_object(values: Mapping[str, Any]) -> bytes:
    """An encoded object for the `extra` parameters; None values are left out."""
    return encode({name: value for name, value in values.items() if value is not None})
