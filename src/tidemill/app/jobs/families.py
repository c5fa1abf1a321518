"""Jobs that other jobs started: found by their parent, and what holds for all of a family together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tidemill.app.rows.codec import decode_object, encode
from tidemill.domain.errors import Conflict
from tidemill.domain.model import JobState, Resource
from tidemill.store.api import Read, ResourceQuery

FINAL = tuple(state.value for state in JobState if state.final)


def children(read: Read, parent: Resource, *, live: bool = False) -> Sequence[Resource]:
    """In the order they were started. `live`: only those that have not ended."""
    query = ResourceQuery(
        "jobs",
        parent.key.scope,
        parent_uid=parent.uid,
        exclude_states=FINAL if live else None,
        ascending=True,
    )
    return read.find(query)


def descendants(read: Read, parent: Resource, *, live: bool = False) -> Iterator[Resource]:
    """Children and theirs. `live`: only those that have not ended; an ended job has none."""
    for child in children(read, parent, live=live):
        yield child
        yield from descendants(read, child, live=live)


def check_running(read: Read, parent: Resource) -> Resource:
    """The parent as it is. Raises Conflict for one that starts nothing any more."""
    row = read.by_uid(parent.uid)
    if row is None or row.state != JobState.RUNNING:
        state = "gone" if row is None else row.state
        raise Conflict(
            f"Job {parent.key.name!r} is {state}: it starts no more jobs.",
            "ParentNotRunning",
            parent.key.name,
        )
    return row


def archived(row: Resource, hidden: bool, now: int) -> Resource:
    spec = {**decode_object(row.spec), "isArchived": hidden}
    return replace(row, spec=encode(spec), archived=hidden, modified_at=now)
