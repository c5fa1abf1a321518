"""Removing what the owner's rules let go (domain.retention), a piece at a time: a kill leaves the rest.

Who needs what is read from the rows themselves: all of them, of every type, are searched for names of jobs'
artifacts and of upload containers, wherever in a row these stand. So a row of a kind that is not known here
counts, too. Before anything goes, the rows that came since are read.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tidemill.app.assets.storage import account_of
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.rows.registry_rows import TYPE as REGISTRIES
from tidemill.app.services import Services
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Caller, Event, JobState, Resource
from tidemill.domain.plan import COMMAND, JobStatus, Place
from tidemill.domain.retention import Candidate, Kind, Rules, Verdict, decide, read_rules
from tidemill.identity.files import write_whole
from tidemill.store.api import Read, ResourceQuery, Tx

KEY = "retention"  # in config.json
BACKUPS = "backups"
_PAGE = 100  # rows in one look: the loop belongs to everybody
_MOST_NEW = 1_000_000
_JUST_ASKED_US = 600_000_000
_SETTLED_US = 60_000_000
_JOB_NAMES = re.compile(rb"(?:dcid\.|jobs/|runs:/+|runs/)([A-Za-z0-9_.-]+)")
_CONTAINERS = re.compile(rb"\b[a-z][0-9a-f]{32}\b")
_UPLOAD = re.compile(r"[a-z][0-9a-f]{32}")  # as app.assets.assets.start_pending_upload names them
_ACTION = "Tidemill.Server/home/retention/action"


@dataclass(slots=True)
class _Seen:
    """What all rows say.

    `last`: uid of the last row that was made before `settled`, after which rows may still come: they are in
    the order of their making, but for moments. `jobs`: name -> who speaks of that job's files; `containers`:
    of uploads; `environments`: digest -> (when a job last used it, who waits for it or runs in it)."""

    settled: int
    last: str = ""
    ended: list[tuple[Resource, JobStatus]] = field(default_factory=list[tuple[Resource, JobStatus]])
    jobs: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    containers: set[str] = field(default_factory=set[str])
    environments: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])


def rules_of(s: Services) -> Rules:
    return read_rules(_config(s).get(KEY) or {})


def set_rules(s: Services, given: Mapping[str, object]) -> Rules:
    """Changes what is given; None takes a rule away. Raises InvalidRequest."""
    if not given:
        raise InvalidRequest("Give at least one rule.", target=KEY)
    rules = read_rules(given, rules_of(s))
    config = {**_config(s), KEY: rules.as_dict()}
    write_whole(_config_path(s), json.dumps(config, indent=2).encode() + b"\n")
    return rules


async def look(s: Services) -> list[Verdict]:
    """What would go and what would stay. Nothing is changed."""
    return (await _look(s))[1]


async def _look(s: Services) -> tuple[_Seen, list[Verdict]]:
    seen = await _read_all(s)
    found = [
        *await asyncio.to_thread(_job_files, s, seen),
        *_environments(s, seen),
        *await _uploads(s, seen),
        *_backups(s),
    ]
    return seen, decide(rules_of(s), found, s.clock.now())


async def apply(s: Services, caller: Caller) -> list[Verdict]:
    """Removes what `look` says would go, looking at each again. -> what is gone."""
    gone: list[Verdict] = []
    seen, verdicts = await _look(s)
    for verdict in verdicts:
        if verdict.remove and await _remove(s, caller, seen, verdict):
            gone.append(verdict)
    await asyncio.to_thread(s.environments.sweep)
    if gone:
        size = sum(verdict.candidate.size for verdict in gone)
        said = f"By the rules of retention, {len(gone)} things of {size} bytes were removed."
        s.activity.system(s.clock.now(), _ACTION, "", "home", said)
    return gone


async def _remove(s: Services, caller: Caller, seen: _Seen, verdict: Verdict) -> bool:
    one = verdict.candidate
    if one.kind is Kind.ENVIRONMENT:
        return await _remove_environment(s, seen, one)
    if one.kind is Kind.BACKUP:
        await asyncio.to_thread((s.settings.home / BACKUPS / one.name).unlink, missing_ok=True)
        return True
    if one.kind is Kind.UPLOAD:
        account, _, container = one.name.partition("/")
        await s.store.read(lambda r: _catch_up(r, seen))
        if container in seen.containers:
            return False
        await asyncio.to_thread(s.blobs.delete_container, account, container)
        return True
    return await _remove_job_files(s, caller, seen, verdict)


async def _remove_environment(s: Services, seen: _Seen, one: Candidate) -> bool:
    """Between the last look and the rename nothing else runs on this loop; whoever was told that it is there
    may not have stored its job yet, so one that was asked for just now stays."""
    await s.store.read(lambda r: _catch_up(r, seen))
    _, user = seen.environments.get(one.name, (0, ""))
    if user or s.clock.now() - s.environments.asked_at(one.name) < _JUST_ASKED_US:
        return False
    return s.environments.set_aside(one.name)


async def _remove_job_files(s: Services, caller: Caller, seen: _Seen, verdict: Verdict) -> bool:
    """The row says it first, then the files go: a kill in between leaves files that the next time finds."""
    uid = verdict.candidate.name.rsplit(" ", 1)[-1]
    now = s.clock.now()

    def change(tx: Tx) -> Place | None:
        _catch_up(tx, seen)
        row = tx.by_uid(uid)
        if row is None or not JobState(row.state).final or _users(seen, row):
            return None
        status = job_status(row.status)
        if status.progress.logs:
            progress = replace(status.progress, logs=())
            tx.update(
                replace(row, status=encode(replace(status, progress=progress)), modified_at=row.modified_at)
            )
            text = f"Its logs and artifacts were removed by the rules of retention. {verdict.why}"
            tx.add_event(Event(uid, "job", now, "FilesRemoved", text, caller.name))
        return status.plan.artifacts

    place = await s.store.write(change)
    if place is None:
        return False
    await asyncio.to_thread(s.blobs.delete_prefix, place.account, place.container, place.path)
    return True


async def _read_all(s: Services) -> _Seen:
    seen, after = _Seen(s.clock.now() - _SETTLED_US), ""
    while True:
        rows = await s.store.read(lambda r, after=after: r.every(after, _PAGE))
        for row in rows:
            _note(seen, row)
        if len(rows) < _PAGE:
            return seen
        after = rows[-1].uid
        await asyncio.sleep(0)


def _catch_up(read: Read, seen: _Seen) -> None:
    """What came since, with what was being written then."""
    for row in read.every(seen.last, _MOST_NEW):
        _note(seen, row)


def _note(seen: _Seen, row: Resource) -> None:
    if row.created_at < seen.settled:
        seen.last = max(seen.last, row.uid)
    what = f"{row.key.type} {row.key.parent + ':' if row.key.parent else ''}{row.key.name}"
    for raw in (row.spec, row.status, row.ref.encode()):
        seen.containers.update(found.decode() for found in _CONTAINERS.findall(raw))
        for found in _JOB_NAMES.findall(raw):
            seen.jobs.setdefault(found.decode().casefold(), {})[row.uid] = what
    if row.key.type == "stepResults" and row.ref:
        seen.jobs.setdefault(row.ref, {})[row.uid] = "the results that pipelines use again"
    if row.key.type != "jobs":
        return
    status = job_status(row.status)
    final = JobState(row.state).final
    used_at = status.progress.ended_at or row.created_at
    for digest in (status.plan.environment.digest, status.plan.environment.built):
        if digest:
            before, user = seen.environments.get(digest, (0, ""))
            seen.environments[digest] = max(before, used_at), user or ("" if final else what)
    if final and status.kind == COMMAND and status.plan.artifacts is not None:
        seen.ended.append((row, status))


def _users(seen: _Seen, row: Resource) -> tuple[str, ...]:
    """Who else than the job itself speaks of its files."""
    named = {**seen.jobs.get(row.key.name.casefold(), {}), **seen.jobs.get(row.uid, {})}
    return tuple(what for uid, what in named.items() if uid != row.uid)


def _job_files(s: Services, seen: _Seen) -> list[Candidate]:
    found: list[Candidate] = []
    for row, status in seen.ended:
        place = status.plan.artifacts
        assert place is not None
        size = _size(s, place)
        if size:
            ended = status.progress.ended_at or row.created_at
            name = f"{row.key.scope.workspace}/{row.key.name} {row.uid}"
            found.append(Candidate(Kind.JOB_FILES, name, ended, size, _users(seen, row)))
    return found


def _environments(s: Services, seen: _Seen) -> list[Candidate]:
    found: list[Candidate] = []
    for record in s.environments.list():
        used_at, user = seen.environments.get(record.digest, (0, ""))
        last = max(used_at, record.built_at)
        found.append(Candidate(Kind.ENVIRONMENT, record.digest, last, record.size, (user,) if user else ()))
    return found


async def _uploads(s: Services, seen: _Seen) -> list[Candidate]:
    owners = await s.store.read(
        lambda r: [*r.find(ResourceQuery("workspaces")), *r.find(ResourceQuery(REGISTRIES))]
    )

    def count() -> list[Candidate]:
        found: list[Candidate] = []
        for account in sorted({account_of(row) for row in owners}):
            for one in s.blobs.containers(account):
                if _UPLOAD.fullmatch(one.name):
                    users = ("an asset, or what was made from it",) if one.name in seen.containers else ()
                    size = _size(s, Place(account, one.name, ""))
                    name = f"{account}/{one.name}"
                    found.append(Candidate(Kind.UPLOAD, name, one.modified_at, size, users))
        return found

    return await asyncio.to_thread(count)


def _backups(s: Services) -> list[Candidate]:
    folder = s.settings.home / BACKUPS
    files: Sequence[Path] = sorted(folder.glob("*.tidemill-backup")) if folder.is_dir() else []
    stats = [(path.name, path.stat()) for path in files]
    return [Candidate(Kind.BACKUP, name, int(stat.st_mtime * 1e6), stat.st_size) for name, stat in stats]


def _size(s: Services, place: Place) -> int:
    if s.blobs.container(place.account, place.container) is None:
        return 0
    total, marker = 0, ""
    while True:
        page = s.blobs.list(place.account, place.container, place.path, marker=marker)
        total += sum(blob.size for blob in page.blobs)
        marker = page.next_marker
        if not marker:
            return total


def _config_path(s: Services) -> Path:
    return s.settings.home / "config.json"


def _config(s: Services) -> dict[str, Any]:
    return json.loads(_config_path(s).read_bytes())
