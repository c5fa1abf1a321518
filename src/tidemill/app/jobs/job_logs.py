"""A job's log files: read where they are now, on the node while it runs, in storage afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.errors import NotFound
from tidemill.domain.launch import log_names
from tidemill.domain.model import Attempt, JobState, Resource
from tidemill.domain.plan import COMMAND, PIPELINE, SWEEP, JobStatus
from tidemill.engines.base import EngineError

CHUNK = 1024 * 1024
# Azure's names for the logs of jobs that start others: its SDK streams no other file of theirs.
COMPOSITE_LOGS = {PIPELINE: "logs/azureml/executionlogs.txt", SWEEP: "azureml-logs/hyperdrive.txt"}
BUILD_LOG = "azureml-logs/20_image_build_log.txt"  # Azure's name for it: its SDK streams it, too


@dataclass(frozen=True, slots=True)
class LogFile:
    path: str  # "user_logs/std_log.txt"
    size: int  # bytes


async def list_logs(s: Services, row: Resource) -> Sequence[LogFile]:
    """The log files that hold something, by name."""
    status = job_status(row.status)
    if status.kind != COMMAND:
        return [LogFile(COMPOSITE_LOGS[status.kind], len(await _told(s, row)))]
    found = _build_log(s, status)
    if JobState(row.state).final:
        return [*found, *(LogFile(path, size) for path, size in status.progress.logs)]
    attempt = await live_attempt(s, row)
    if attempt is None:
        return found
    for path, node_index in log_names(status.plan.job):
        size = await live_size(s, attempt, node_index, path)
        if size:
            found.append(LogFile(path, size))
    return sorted(found, key=lambda f: f.path)


def _build_log(s: Services, status: JobStatus) -> list[LogFile]:
    """The log of the build of its environment, where that was built for this job."""
    if not status.progress.built_environment:
        return []
    try:
        size = s.environments.log_path(status.plan.environment.digest).stat().st_size
    except FileNotFoundError:
        return []
    return [LogFile(BUILD_LOG, size)] if size else []


def _read_build_log(s: Services, status: JobStatus, offset: int, limit: int) -> bytes:
    try:
        with open(s.environments.log_path(status.plan.environment.digest), "rb") as file:
            file.seek(offset)
            return file.read(limit)
    except FileNotFoundError:
        return b""


async def live_attempt(s: Services, row: Resource) -> Attempt | None:
    """The one that `row` speaks of, while it lives: never a newer one, whose log is another file."""
    number = job_status(row.status).progress.attempt
    attempts = await s.store.read(lambda r: r.attempts_of(row.uid))
    return next((a for a in attempts if a.number == number and a.ended_at is None), None)


async def live_size(s: Services, attempt: Attempt, node_index: int, path: str) -> int:
    try:
        return await s.engine.log_size(attempt.nodes[node_index], attempt.id, path)
    except EngineError:
        return 0


async def read_log(s: Services, row: Resource, path: str, offset: int, limit: int = CHUNK) -> bytes:
    """Bytes from `offset`. Raises NotFound for a file that the job does not have."""
    status = job_status(row.status)
    if status.kind != COMMAND:
        own = COMPOSITE_LOGS[status.kind]
        if path != own:
            raise NotFound(f"Job {row.key.name!r} has no log {path!r}. It has: {own}.", target=path)
        return (await _told(s, row))[offset : offset + limit]
    if path == BUILD_LOG and status.progress.built_environment:
        return _read_build_log(s, status, offset, limit)
    if not JobState(row.state).final:
        attempt = await live_attempt(s, row)
        places = dict(log_names(status.plan.job))
        if path not in places:
            raise NotFound(
                f"Job {row.key.name!r} has no log {path!r}. It has: {', '.join(places)}.", target=path
            )
        if attempt is None:
            return b""
        try:
            return await s.engine.read_log(attempt.nodes[places[path]], attempt.id, path, offset, limit)
        except EngineError:
            row = await _row_now(s, row)
            before, status = status, job_status(row.status)
            if not JobState(row.state).final or status.progress.attempt != before.progress.attempt:
                return b""
    if path not in dict(status.progress.logs):
        known = ", ".join(p for p, _ in status.progress.logs) or "none"
        if path in dict(log_names(status.plan.job)):
            return b""
        raise NotFound(f"Job {row.key.name!r} has no log {path!r}. It has: {known}.", target=path)
    return await asyncio.to_thread(_read_stored, s, row, path, offset, limit)


async def _told(s: Services, row: Resource) -> bytes:
    """The log of a job that starts others: its time line. What is in it stays, so it can be read on."""
    events = await s.store.read(lambda r: r.events(row.uid))
    return "".join(f"[{iso(event.at)}] {event.message}\n" for event in events).encode()


async def _row_now(s: Services, row: Resource) -> Resource:
    return await s.store.read(lambda r: r.by_uid(row.uid)) or row


def _read_stored(s: Services, row: Resource, path: str, offset: int, limit: int) -> bytes:
    place = job_status(row.status).plan.artifacts
    assert place is not None
    info = s.blobs.get(place.account, place.container, place.path + path)
    if info is None:
        return b""
    with open(s.blobs.path_of(info), "rb") as file:
        file.seek(offset)
        return file.read(limit)
