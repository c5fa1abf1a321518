"""Rows of jobs that nobody submits or lists: instances of deployments, runs of container groups."""

from __future__ import annotations

from tidemill.app.rows.codec import decode_object, encode
from tidemill.domain.model import JobState, Key, Resource
from tidemill.domain.plan import JobStatus

Told = tuple[tuple[str, str], ...]  # (code, sentence) for a time line


def owned_row(
    uid: str, name: str, owner: Resource, status: JobStatus, *, ready: bool, environment_id: str, now: int
) -> Resource:
    """To insert. `ready`: what it runs in is there, so it waits for its node only."""
    job = status.plan.job
    return Resource(
        uid=uid,
        key=Key(owner.key.scope, "jobs", name),
        state=JobState.QUEUED if ready else JobState.PREPARING,
        spec=encode(
            {
                "jobType": "Command",
                "command": job.command,
                "displayName": job.display_name,
                "experimentName": job.experiment,
                "environmentId": environment_id,
                "inputs": {},
                "outputs": {},
                "properties": {},
                "tags": decode_object(owner.tags),
                "isArchived": False,
            }
        ),
        status=encode(status),
        tags=owner.tags,
        ref=status.plan.compute_uid,
        parent_uid=owner.uid,
        created_at=now,
        modified_at=now,
        created_by=owner.created_by,
    )
