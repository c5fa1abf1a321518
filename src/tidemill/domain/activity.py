"""The activity log: who did what, from where, when, on what, allowed or refused and why.

Append-only and chained: each record holds the hash of itself and of the hash before it, so a record that is
changed, removed or put in is found. What is cut off at the end is found by a head kept beside the records and
by signed checkpoints: a checkpoint says "record `seq` has this hash".

Bodies, queries and secrets are never part of a record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

GENESIS = bytes(32)  # the hash "before" the first record

MAX_AGENT, MAX_RESOURCE, MAX_REASON = 200, 1000, 500

_SAFE = ("GET", "HEAD")
# Words of actions that give a secret away: reading is what is recorded.
_SECRETS = ("listsecrets/", "listkeys/", "getsecret/", "regeneratekey/")
# What running jobs write about themselves, by the thousand: results, not administration.
_RESULTS = tuple(
    f"microsoft.machinelearningservices/workspaces/{kind}/write"
    for kind in ("experiments/runs", "jobs/runs", "experiments", "runs", "metrics", "artifacts")
)
_REFUSED = (401, 403, 421)
JOBS_OWN = "job/"  # how the ids of the assignments begin that running jobs have by themselves


class Outcome(StrEnum):
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"  # allowed, and then it could not be done
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class Record:
    """`scope` and `resource` are ARM ids (or the path, outside ARM); `assignment` is the role assignment that
    decided, `reason` its sentence. `count`: how often the same refusal came within one moment. `at`: of
    the (first) request, microseconds. `seq` and `hash` are given by the store."""

    at: int
    action: str
    outcome: Outcome
    actor: str = ""  # oid; "": nobody proved to be anybody
    actor_name: str = ""
    actor_kind: str = ""  # "owner", "user", "job", …, "anonymous", "system"
    address: str = ""
    agent: str = ""
    scope: str = ""
    resource: str = ""
    method: str = ""
    status: int = 0
    code: str = ""  # the error's
    assignment: str = ""
    reason: str = ""
    correlation: str = ""
    count: int = 1
    seq: int = 0
    hash: bytes = field(default=b"", repr=False)

    @property
    def content(self) -> tuple[str | int, ...]:
        """Everything that is hashed, in order."""
        return (
            self.seq,
            self.at,
            self.action,
            str(self.outcome),
            self.actor,
            self.actor_name,
            self.actor_kind,
            self.address,
            self.agent,
            self.scope,
            self.resource,
            self.method,
            self.status,
            self.code,
            self.assignment,
            self.reason,
            self.correlation,
            self.count,
        )


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record: its number and hash. (0, GENESIS) of an empty log."""

    seq: int = 0
    hash: bytes = GENESIS


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`text` is what was signed; `key` the id of the signing key."""

    seq: int
    hash: bytes
    at: int
    key: str
    signature: bytes

    @property
    def text(self) -> bytes:
        return f"tidemill activity checkpoint\n{self.seq}\n{self.hash.hex()}\n{self.at}".encode()


@dataclass(frozen=True, slots=True)
class Break:
    """The first record that does not hold, and why."""

    seq: int
    why: str


def paced(record: Record) -> bool:
    """Whether many of its kind may come without end: what was refused, and what jobs do by their own role.
    What they do by somebody else's, and a look at a secret, is always kept."""
    if record.outcome is Outcome.REFUSED:
        return True
    return record.assignment.startswith(JOBS_OWN) and not shows_secret(record.action)


class Pace:
    """Which of the paced records of one source (who, from where) are kept one by one: some at once, then one
    now and then. The rest is only counted: a flood must not fill the disk, nor hide what others did."""

    AT_ONCE = 200
    EVERY_US = 10_000_000
    MOST_SOURCES = 10_000

    def __init__(self) -> None:
        self._sources: dict[tuple[str, str], int] = {}  # -> when all of AT_ONCE may be kept again

    def keeps(self, record: Record) -> bool:
        source = (record.actor, record.address)
        full_at = max(self._sources.get(source, 0), record.at) + self.EVERY_US
        if full_at - record.at > self.AT_ONCE * self.EVERY_US:
            return False
        if len(self._sources) >= self.MOST_SOURCES:
            self._sources = {one: at for one, at in self._sources.items() if at > record.at}
        if len(self._sources) >= self.MOST_SOURCES and source not in self._sources:
            return False
        self._sources[source] = full_at
        return True


def more(record: Record) -> Record:
    """The record of those that are only counted, begun with this one: of whom, where and what is not told
    apart any more."""
    return Record(
        record.at,
        "*",
        record.outcome,
        actor_kind=record.actor_kind,
        status=record.status,
        code=record.code,
        reason="More came, too many to keep each.",
        count=record.count,
    )


def plain(text: str, most: int) -> str:
    """No control characters, no half characters (PostgreSQL takes neither), and no more than `most`."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:most])


def link(previous: bytes, record: Record) -> bytes:
    """The hash of a record that follows one with the hash `previous`."""
    text = json.dumps(record.content, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(previous + text.encode()).digest()


def chained(head: Head, records: Iterable[Record]) -> Iterator[Record]:
    """The records with their numbers and hashes, as they follow on `head`."""
    seq, previous = head.seq, head.hash
    for record in records:
        seq += 1
        numbered = replace(record, seq=seq)
        previous = link(previous, numbered)
        yield replace(numbered, hash=previous)


def is_kept(method: str, action: str, status: int, signs_in: bool) -> bool:
    """Whether a request is recorded: every write, sign-in and look at a secret, and whatever was refused."""
    return status in _REFUSED or signs_in or _administers(method, action) or shows_secret(action)


@lru_cache(maxsize=4096)
def _administers(method: str, action: str) -> bool:
    folded = action.lower()
    if method in _SAFE or folded.endswith("/read") or folded == "public":
        return False
    return not folded.startswith(_RESULTS)


@lru_cache(maxsize=4096)
def shows_secret(action: str) -> bool:
    return any(word in action.lower() for word in _SECRETS)


def outcome_of(status: int) -> Outcome:
    if status in _REFUSED:
        return Outcome.REFUSED
    return Outcome.SUCCEEDED if status < 400 else Outcome.FAILED


class Chain:
    """Goes through the log from its first record and finds the first that does not hold.

    `checkpoints` are those whose signatures hold. A log may begin after a checkpoint; any other beginning
    is a break.
    """

    def __init__(self, checkpoints: Mapping[int, bytes]) -> None:
        self._checkpoints = checkpoints
        self._previous: bytes | None = None
        self.first = 0
        self.last = 0
        self.head = GENESIS

    def add(self, record: Record) -> Break | None:
        previous = self._before(record)
        if isinstance(previous, Break):
            return previous
        if link(previous, record) != record.hash:
            return Break(record.seq, "it, or the hash of the record before it, was changed")
        known = self._checkpoints.get(record.seq)
        if known is not None and known != record.hash:
            return Break(record.seq, "a signed checkpoint has another hash: the log was written anew")
        self._previous = self.head = record.hash
        self.first = self.first or record.seq
        self.last = record.seq
        return None

    def end(self, head: Head) -> Break | None:
        """After the last record. `head` is what the store noted when it wrote it."""
        signed = max(self._checkpoints, default=0)
        if signed > self.last:
            return Break(self.last + 1, f"missing: a signed checkpoint says that there were {signed} records")
        if (head.seq, head.hash) != (self.last, self.head):
            return Break(self.last + 1, f"missing: the log's head is record {head.seq}, not {self.last}")
        return None

    def _before(self, record: Record) -> bytes | Break:
        if self._previous is not None:
            if record.seq != self.last + 1:
                return Break(self.last + 1, f"missing: record {record.seq} follows {self.last}")
            return self._previous
        if record.seq == 1:
            return GENESIS
        known = self._checkpoints.get(record.seq - 1)
        return known or Break(
            1, f"missing: the log begins at {record.seq}, and no signed checkpoint is there"
        )
