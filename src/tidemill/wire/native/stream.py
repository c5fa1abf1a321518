"""Server-sent events of one job: time line, log and state as they happen, resumable by id.

An event's id is `{last event seq}:{file}={bytes},…`: everything a client has already been given, so that a
connection (or the whole server) can break off at any point and the client goes on without gap or repeat.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from starlette.responses import StreamingResponse

from tidemill.app.jobs import job_logs, jobs
from tidemill.app.jobs.job_logs import LogFile
from tidemill.app.people.access import check_still
from tidemill.app.rows.codec import encode, job_kind, job_status
from tidemill.app.services import Services
from tidemill.app.views import job_views
from tidemill.app.waiting import wait_set
from tidemill.domain.errors import TidemillError
from tidemill.domain.looking import CHECK_S
from tidemill.domain.model import Event, JobState, Resource
from tidemill.domain.plan import COMMAND
from tidemill.domain.units import parse_whole
from tidemill.wire.http import Context, resource_below

# The kernel appends to a log without telling anybody: its size is looked at this often while watched.
LOG_LOOK_S = 0.05
KEEP_ALIVE_S = 10.0
ENDING = ("Finalizing", "Registered", "NotRegistered", "Completed", "Failed", "Canceled")
WRITING = (JobState.PREPARING, JobState.STARTING, JobState.RUNNING, JobState.CANCEL_REQUESTED)


@dataclass(slots=True)
class Cursor:
    """What a client has been given."""

    seq: int = 0
    offsets: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """ "12:user_logs%2Fstd_log.txt=340" -> Cursor; anything unreadable starts from the beginning."""
        head, _, tail = text.partition(":")
        cursor = cls(parse_whole(head) or 0)
        for part in tail.split(","):
            name, _, size = part.rpartition("=")
            offset = parse_whole(size)
            if name and offset is not None:
                cursor.offsets[unquote(name)] = offset
        return cursor

    def __str__(self) -> str:
        files = ",".join(f"{quote(name, safe='')}={size}" for name, size in self.offsets.items())
        return f"{self.seq}:{files}"


async def stream_job(ctx: Context) -> StreamingResponse:
    row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
    resume = ctx.request.query.get("after") or ctx.request.header("last-event-id")
    body = _while_allowed(ctx, row, Cursor.parse(resume))
    return StreamingResponse(body, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _while_allowed(ctx: Context, row: Resource, cursor: Cursor) -> AsyncIterator[bytes]:
    """The events, until the caller may not read them any more: a client that asks again is told why."""
    checked = time.monotonic()
    async with aclosing(_events(ctx.services, row, cursor)) as events:
        async for event in events:
            if time.monotonic() - checked >= CHECK_S:
                try:
                    await still_allowed(ctx)
                except TidemillError:
                    return
                checked = time.monotonic()
            yield event


async def still_allowed(ctx: Context) -> None:
    """Raises what the request would be refused with now."""
    below = resource_below(ctx.resource, ctx.params)
    await check_still(ctx.services, ctx.caller, ctx.decision.action, ctx.scope, below)


async def _events(s: Services, row: Resource, cursor: Cursor) -> AsyncGenerator[bytes]:
    state = ""
    quiet = 0.0
    with s.live.watching(row.uid) as changed:
        while True:
            changed.clear()
            # Both as of one moment: the event that ends a job never comes before the rest of its log.
            found, events = await s.store.read(lambda r: (r.by_uid(row.uid), r.events(row.uid, cursor.seq)))  # noqa: B023
            row = found or row
            final = JobState(row.state).final
            sent = False
            async for chunk in _news(s, row, events, cursor):
                sent = True
                yield chunk
            if row.state != state:
                state = row.state
                sent = True
                yield _event("status", await job_views.summary(s, row), cursor)
            if final:
                yield _event("end", await job_views.detail(s, row), cursor)
                return
            quiet = 0.0 if sent else quiet + LOG_LOOK_S
            if quiet >= KEEP_ALIVE_S:
                quiet = 0.0
                yield b": still here\n\n"
            running = state in WRITING
            if not await wait_set(changed, LOG_LOOK_S if running else KEEP_ALIVE_S / 2):
                quiet += 0.0 if running else KEEP_ALIVE_S / 2


async def _news(s: Services, row: Resource, events: Sequence[Event], cursor: Cursor) -> AsyncIterator[bytes]:
    """Events and log text since the cursor, which moves on: the environment's log comes before what follows
    its build, the job's between its start and what follows its end."""
    built, written = _split(await job_logs.list_logs(s, row))
    if row.state == JobState.STARTING or job_kind(row.status) != COMMAND:
        written = []  # its start is not recorded yet, and comes first; what a pipeline logs is its time line
    building = 1 + max((i for i, e in enumerate(events) if e.code in ("Submitted", "Preparing")), default=-1)
    ended = _first_after_the_end(events)
    batches = ((events[:building], built), (events[building:ended], written), (events[ended:], []))
    for batch, files in batches:
        for event in batch:
            cursor.seq = max(cursor.seq, event.seq)
            yield _event("timeline", job_views.timeline_entry(event, row.created_at), cursor)
        for file in files:
            async for chunk in _log_text(s, row, file.path, file.size, cursor):
                yield chunk


def _first_after_the_end(events: Sequence[Event]) -> int:
    """Where what follows the last attempt's log begins."""
    started = max((i for i, e in enumerate(events) if e.code in ("Assigned", "Started")), default=-1)
    ends = (i for i, e in enumerate(events) if i > started and e.code in ENDING)
    return next(ends, len(events))


def _split(files: Sequence[LogFile]) -> tuple[list[LogFile], list[LogFile]]:
    """The environment's log, and the job's own."""
    built = [file for file in files if file.path == job_logs.BUILD_LOG]
    return built, [file for file in files if file.path != job_logs.BUILD_LOG]


async def _log_text(s: Services, row: Resource, path: str, size: int, cursor: Cursor) -> AsyncIterator[bytes]:
    # A new attempt writes a new file of the same name.
    attempt = 0 if path == job_logs.BUILD_LOG else job_status(row.status).progress.attempt
    key = f"{attempt}|{path}"
    while cursor.offsets.get(key, 0) < size:
        offset = cursor.offsets.get(key, 0)
        raw = await job_logs.read_log(s, row, path, offset)
        if not raw:
            return
        text, taken = _whole_characters(raw)
        if not taken:
            if not JobState(row.state).final:
                return  # half a character: the rest is still being written
            text, taken = raw.decode("utf-8", "replace"), len(raw)
        cursor.offsets[key] = offset + taken
        yield _event("log", {"path": path, "offset": offset, "text": text}, cursor)


def _whole_characters(raw: bytes) -> tuple[str, int]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(raw)
    return text, len(raw) - len(decoder.getstate()[0])


def _event(kind: str, data: dict[str, Any], cursor: Cursor) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(cursor).encode(), kind.encode(), encode(data))
