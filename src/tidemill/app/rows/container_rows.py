"""Where container groups and their runs lie in the store, and how they are found.

Group: Key(resource group, "containerGroups", name); `spec`: ARM's properties without anything secure;
`status`: GroupStatus; `state`: Provisioning; `ref`: its compute's uid.
Run: Key(resource group, "jobs", "NAME-xxxxxx"), a job that nobody lists; `parent_uid`: the group's uid;
JobStatus.plan.group says what it is, JobStatus.containers how its containers are doing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.app.errors import absent
from tidemill.app.rows.codec import decode_object, encode, job_status
from tidemill.app.rows.sealed import unseal
from tidemill.app.services import Services
from tidemill.domain.containers.deciding import Phase, Run
from tidemill.domain.containers.model import Secrets
from tidemill.domain.containers.plan import ERROR, START_ERROR, TERMINATED, ContainerRecord
from tidemill.domain.containers.status import GroupStatus
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Event, JobState, Key, Resource, Scope
from tidemill.domain.plan import JobError, JobStatus, Place
from tidemill.store.api import Read, ResourceQuery

GROUPS = "containerGroups"
CONTAINER = "logs"  # of blobs: what runs have written

_group_status = msgspec.json.Decoder(GroupStatus)
_secrets = msgspec.json.Decoder(Secrets)


def group_key(scope: Scope, name: str) -> Key:
    return Key(scope, GROUPS, name)


def group_status(row: Resource) -> GroupStatus:
    return _group_status.decode(row.status)


def secrets_of(s: Services, row: Resource) -> Secrets:
    """The secure values that a group keeps. Raises ValueError where they do not open."""
    return _secrets.decode(encode(unseal(s, row)))


def find_group(read: Read, scope: Scope, name: str) -> Resource:
    """Raises NotFound naming the groups that exist."""
    row = read.get(group_key(scope, name))
    if row is None:
        names = [one.key.name for one in read.find(ResourceQuery(GROUPS, scope))]
        raise absent("Container group", name, names, f"resource group {scope.group!r}")
    return row


def runs_of(read: Read, group: Resource) -> Sequence[Resource]:
    """Oldest first, ended ones too."""
    return read.find(ResourceQuery("jobs", group.key.scope, parent_uid=group.uid, ascending=True))


def newest_run(read: Read, group: Resource) -> Resource | None:
    runs = runs_of(read, group)
    return runs[-1] if runs else None


def place_of(scope: Scope, run: str) -> Place:
    """Where a run's logs are stored: in an account of the resource group's, which no key is given for."""
    words = f"{scope.subscription}/{scope.group}".lower()
    account = f"groups{hashlib.sha256(words.encode()).hexdigest()[:16]}"
    return Place(account, CONTAINER, f"{run}/")


def as_seen(row: Resource) -> Run:
    """A run, for a decision."""
    status = job_status(row.status)
    assert status.plan.group is not None
    placed = row.state not in (JobState.QUEUED, JobState.PROVISIONING)
    return Run(
        row.uid,
        status.plan.group.generation,
        _phase(row, status),
        row.created_at,
        status.progress.ended_at or 0,
        _failure(row, status),
        placed,
        _failed_first(status),
    )


def _phase(row: Resource, status: JobStatus) -> Phase:
    state = JobState(row.state)
    if state.final:
        return Phase.ENDED
    if state is JobState.CANCEL_REQUESTED:
        return Phase.STOPPING
    group = status.plan.group
    assert group is not None
    begun = [one for one in status.containers if one.attempt == status.progress.attempt and _has_started(one)]
    if state in (JobState.RUNNING, JobState.FINALIZING) and len(begun) == len(group.spec.every):
        return Phase.RUNNING
    return Phase.STARTING


def _has_started(one: ContainerRecord) -> bool:
    return bool(one.now.started_at or one.restarts) or one.now.detail == START_ERROR


def _failed_first(status: JobStatus) -> bool:
    """An init container has failed for good, so the others never started."""
    group = status.plan.group
    assert group is not None
    first = status.containers[: len(group.spec.init)]
    return any(one.now.state == TERMINATED and one.now.detail in (ERROR, START_ERROR) for one in first)


def _failure(row: Resource, status: JobStatus) -> JobError | None:
    """Containers that end do not fail a run: only what kept them from running does."""
    return status.progress.error if row.state in (JobState.FAILED, JobState.CANCELED) else None


def event(row: Resource, at: int, code: str, message: str, actor: str = "system") -> Event:
    return Event(row.uid, "containerGroup", at, code, message, actor)


def being_deleted(row: Resource) -> Conflict:
    return Conflict(
        f"Container group {row.key.name!r} is being deleted. Wait until it is gone.",
        "ContainerGroupDeleting",
        row.key.name,
    )


def merged(held: bytes, changes: Any) -> dict[str, Any]:
    """What a PATCH makes of tags: null removes."""
    return {key: value for key, value in {**decode_object(held), **changes}.items() if value is not None}
