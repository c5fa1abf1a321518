"""What is finished of a parallel step's mini-batches.

What rank 0 of its job stores (`serving/batch/ledger.py`) are blobs below the job's own artifacts, FOLDER/
DIGEST/NUMBER: a line of JSON with the progress, then one for each batch. They outlive the node, and a new
attempt begins with them.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from tidemill.app.jobs import jobs
from tidemill.app.jobs.transitions import job_event
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.services import Services
from tidemill.domain.components import maybe
from tidemill.domain.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tidemill.domain.model import Caller, JobState, Resource, Scope
from tidemill.domain.parallel import ParallelProgress
from tidemill.domain.plan import Place
from tidemill.store.api import Tx

FOLDER = "azureml/parallel"
STEPS = 10  # lines of progress in the time line, at most


async def segment(s: Services, scope: Scope, name: str, digest: str, number: int) -> bytes:
    """Raises NotFound where there is none of that number."""
    row = await jobs.get(s, scope, name)
    place = _place(row, digest, number)
    raw = await asyncio.to_thread(s.blobs.read_bytes, place.account, place.container, place.path)
    if raw is None:
        raise NotFound(f"Job {name!r} has no segment {number}.", "SegmentNotFound")
    return raw


async def store(
    s: Services, caller: Caller, scope: Scope, name: str, digest: str, number: int | None, body: bytes
) -> None:
    """What the running job says of its batches; on disk when this returns. `number` None: only its progress.
    Raises Forbidden for anybody else, Conflict where it runs no more, InvalidRequest."""
    row = await jobs.get(s, scope, name)
    if caller.kind != "job" or caller.oid != row.uid:
        raise Forbidden(f"Only job {name!r} itself says what it has finished.")
    if JobState(row.state).final or job_status(row.status).plan.parallel is None:
        raise Conflict(f"Job {name!r} is {row.state}, or no parallel step.", "NotRunning")
    progress = _progress(body)
    if number is not None:
        place = _place(row, digest, number)
        await asyncio.to_thread(s.blobs.put_bytes, place.account, place.container, place.path, body)
    now = s.clock.now()

    def tell(tx: Tx) -> None:
        current = tx.by_uid(row.uid)
        if current is None or JobState(current.state).final:
            return
        status = job_status(current.status)
        if status.parallel == progress:
            return
        tx.update(replace(current, status=encode(replace(status, parallel=progress)), modified_at=now))
        text = _said(status.parallel, progress)
        if text:
            tx.add_event(job_event(current, now, "Batches", text))

    await s.store.write(tell)


def shown(row: Resource) -> dict[str, Any] | None:
    """For people: how far it is. None where there are no batches to speak of."""
    found = job_status(row.status).parallel
    if found is None:
        return None
    return {
        "total": found.total,
        "finished": found.finished,
        "failed": found.failed,
        "items": found.items,
        "item_errors": found.item_errors,
        "workers": found.workers,
    }


def _place(row: Resource, digest: str, number: int) -> Place:
    artifacts = job_status(row.status).plan.artifacts
    if artifacts is None or not (digest.isascii() and digest.isalnum()) or len(digest) > 64:
        raise InvalidRequest(f"{digest!r} is no digest of batches.")
    return replace(artifacts, path=f"{artifacts.path}{FOLDER}/{digest}/{number:08d}.jsonl")


def _progress(body: bytes) -> ParallelProgress:
    try:
        raw = maybe(maybe(json.loads(body.partition(b"\n")[0])).get("progress"))
        names = ("total", "finished", "failed", "items", "item_errors", "workers")
        return ParallelProgress(*(max(int(raw[name]), 0) for name in names))
    except (ValueError, KeyError, TypeError):
        raise InvalidRequest("The first line must be the progress of the job's batches.") from None


def _said(before: ParallelProgress | None, now: ParallelProgress) -> str:
    """A line for the time line at the beginning, at each tenth and at the end."""
    done, total = now.finished + now.failed, max(now.total, 1)
    earlier = -1 if before is None or before.total != now.total else before.finished + before.failed
    if earlier >= 0 and earlier * STEPS // total == done * STEPS // total:
        return ""
    failed = f", {now.failed} of them failed" if now.failed else ""
    return f"{done} of {now.total} mini-batches are done{failed}."
