"""JSON of our own records: `status` bytes of rows, event data, limits. Frozen dataclasses in and out."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from tidemill.domain.plan import COMMAND, JobStatus

T = TypeVar("T")


class _Kind(msgspec.Struct):
    kind: str = COMMAND


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_job_status = msgspec.json.Decoder(JobStatus)
_job_kind = msgspec.json.Decoder(_Kind)


def decode_object(raw: bytes) -> dict[str, Any]:
    """Stored JSON that is known to be an object."""
    return cast(dict[str, Any], _decode(raw))


def job_status(raw: bytes) -> JobStatus:
    return _job_status.decode(raw)


def job_kind(raw: bytes) -> str:
    """A job's kind, at a part of the cost of its status."""
    return _job_kind.decode(raw).kind
