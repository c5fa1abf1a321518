"""What a PATCH of an endpoint or a deployment, online or batch, makes of what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.rows.codec import decode_object
from tidemill.domain.model import Resource


def merge(held: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a PATCH makes of an object, one level deep: null removes."""
    return {key: value for key, value in {**held, **changes}.items() if value is not None}


def merged(row: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body that a PATCH stands for: what the row has, with what is given of tags and properties."""
    return {
        "location": row.location,
        "tags": merge(decode_object(row.tags), object_at(body, "tags")),
        "properties": merge(decode_object(row.spec), object_at(body, "properties")),
    }
