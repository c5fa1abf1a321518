"""JSON of our own records: `status` bytes of rows, event data, limits. Frozen dataclasses in and out."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from tidemill.domain.plan import JobStatus

T = TypeVar("T")

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_job_status = msgspec.json.Decoder(JobStatus)


def decode_object(raw: bytes) -> dict[str, Any]:
    """Stored JSON that is known to be an object."""
    return cast(dict[str, Any], _decode(raw))


def job_status(raw: bytes) -> JobStatus:
    return _job_status.decode(raw)
