"""Reading the activity log: lists as CLI, portal and ARM show them, and the check of the whole chain."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.activity import Chain, Record
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.units import parse_whole
from tidemill.store.api import ActivityPage
from tidemill.store.api import ActivityQuery as ActivityQuery  # callers ask with it

READ_ACTION = "Microsoft.Insights/eventtypes/values/Read"  # Azure's, of its activity log
_BATCH = 500


async def find(s: Services, query: ActivityQuery) -> ActivityPage:
    """Up to `query.limit` records, newest first, however many have to be looked at for them."""
    await s.activity.flush()
    records: list[Record] = []
    while True:
        part = replace(query, limit=query.limit - len(records))
        page = await s.store.read(lambda read, q=part: read.activity(q))
        records += page.records
        if page.after is None or len(records) >= query.limit:
            return ActivityPage(tuple(records), page.after)
        query = replace(query, after=page.after)
        await asyncio.sleep(0)  # others have their turn between two windows


async def verify(s: Services, against: tuple[int, bytes] | None = None) -> dict[str, Any]:
    """-> {"records", "first", "last", "head", "checkpoints", "broken": {"seq", "why"} or None}: `records` are
    those that hold, `head` is "NUMBER:HASH" of the last. `against`: number and hash of a record as somebody
    noted them elsewhere."""
    await s.activity.flush()
    checkpoints = [] if s.activity.checkpoints is None else s.activity.checkpoints.read()
    known = {found.seq: found.hash for found in checkpoints}
    if against is not None:
        seq, digest = against
        if known.setdefault(seq, digest) != digest:
            raise InvalidRequest(
                f"A signed checkpoint of this home gives record {seq} the hash {known[seq].hex()}. "
                "The one that was given is not of this log.",
                target="against",
            )
    chain = Chain(known)
    broken, count, following = None, 0, 1
    while broken is None:
        records, head = await s.store.read(
            lambda read, at=following: (read.activity_from(at, _BATCH), read.activity_head())
        )
        for record in records:
            broken = broken or chain.add(record)
            count += broken is None
        if len(records) < _BATCH:
            broken = broken or chain.end(head)
            break
        following = records[-1].seq + 1
        await asyncio.sleep(0)
    return {
        "records": count,
        "first": chain.first,
        "last": chain.last,
        "head": f"{chain.last}:{chain.head.hex()}",
        "checkpoints": len(checkpoints),
        "broken": None if broken is None else {"seq": broken.seq, "why": broken.why},
    }


def view(record: Record) -> dict[str, Any]:
    """A record as the native API gives it."""
    return {
        "seq": record.seq,
        "at": iso(record.at),
        "who": record.actor_name or record.actor_kind,
        "oid": record.actor,
        "kind": record.actor_kind,
        "action": record.action,
        "scope": record.scope,
        "resource": record.resource,
        "method": record.method,
        "outcome": str(record.outcome),
        "status": record.status,
        "code": record.code,
        "assignment": record.assignment,
        "reason": record.reason,
        "address": record.address,
        "agent": record.agent,
        "correlation": record.correlation,
        "count": record.count,
        "hash": record.hash.hex(),
    }


def moment(text: str, name: str) -> int | None:
    """ISO 8601 -> microseconds; a time without a zone is UTC. Raises InvalidRequest."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{name} is {text!r}: it must be a time such as 2026-11-25T13:00:00Z.", target=name
        ) from None


def token(after: tuple[int, int]) -> str:
    """Where the next page begins, for `place`."""
    return f"{after[0]}:{after[1]}"


def place(text: str, name: str) -> tuple[int, int] | None:
    if not text:
        return None
    first, _, second = text.partition(":")
    at, seq = parse_whole(first), parse_whole(second)
    if at is None or seq is None:
        raise InvalidRequest(f"{name} is {text!r}, which this server did not give out.", target=name)
    return at, seq
