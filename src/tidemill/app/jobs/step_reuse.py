"""Results of steps that stand for the same step again: what a result depends on, as a key, and where it lies.

A key is made of the command, the code, the environment, the inputs' content and what the outputs are; not
of the compute, of names or of times. Rows: Key(ws, "stepResults", key), `ref`: uid of the job that has it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace

from tidemill.app.jobs.pipeline_children import CONTROL
from tidemill.app.jobs.prepared import Prepared
from tidemill.app.rows.codec import decode_object, encode, job_status
from tidemill.app.services import Services
from tidemill.domain.components import maybe
from tidemill.domain.model import JobState, Key, Resource, Scope
from tidemill.domain.plan import JobPlan, JobProgress, JobStatus, PlannedInput, PlannedOutput
from tidemill.store.api import Tx

TYPE = "stepResults"
MOST_FILES = 5000  # of an input: one with more is not looked through, and its step is not reused
REUSED, REUSED_FROM = "azureml.isreused", "azureml.reusedrunid"


async def key_of(s: Services, plan: JobPlan) -> str:
    """-> 64 hex digits; "" for a step that depends on what cannot be known: a web address, a secret."""
    inputs: list[object] = []
    for item in plan.inputs:
        known = await _content(s, item)
        if known is None:
            return ""
        inputs.append((item.name, item.type, item.mode, known))
    job, environment = plan.job, plan.environment
    if any("secrets." in value for _, value in job.environment_variables):
        return ""
    parts = (
        job.command,
        plan.code,
        (environment.digest, environment.image, environment.conda, environment.pip, environment.variables),
        sorted(job.environment_variables),
        job.distribution,
        job.node_count,
        # What somebody may read is no result for somebody else.
        job.identity,
        plan.acts_as,
        inputs,
        job.unset_inputs,
        [(o.name, o.type, o.mode, o.uri, o.asset_name, o.asset_version) for o in job.outputs],
        *((plan.parallel,) if plan.parallel is not None else ()),
    )
    return hashlib.sha256(encode(parts)).hexdigest()


async def _content(s: Services, item: PlannedInput) -> object:
    """What an input is, wherever it lies; None where that cannot be known."""
    if item.literal is not None:
        return item.literal
    if item.place is None or item.parts:
        return None
    place = item.place

    def look() -> object:
        page = s.blobs.list(place.account, place.container, place.path, limit=MOST_FILES)
        if page.next_marker:
            return None
        files = [
            (blob.name[len(place.path) :], blob.size, blob.md5.hex() if blob.md5 else blob.etag)
            for blob in page.blobs
        ]
        # What is handed over as an address is that address.
        return (item.uri, files) if item.mode == "direct" else files

    return await asyncio.to_thread(look)


async def find(s: Services, scope: Scope, key: str) -> Resource | None:
    """The job whose result may stand for the step: it is completed, and its outputs are still there."""
    row = await s.store.read(lambda r: r.get(Key(scope, TYPE, key)))
    if row is None:
        return None
    job = await s.store.read(lambda r: r.by_uid(row.ref))
    if job is None or job.state != JobState.COMPLETED:
        return None
    outputs = job_status(job.status).plan.outputs
    return job if await asyncio.to_thread(_there, s, outputs) else None


def _there(s: Services, outputs: Sequence[PlannedOutput]) -> bool:
    return all(
        s.blobs.container(output.place.account, output.place.container) is not None
        and bool(s.blobs.list(output.place.account, output.place.container, output.place.path, limit=1).blobs)
        for output in outputs
    )


def standing_for(s: Services, plan: JobPlan, source: Resource, key: str) -> Prepared:
    """A job that has ended as it began: with the results of `source`, at no cost."""
    before = job_status(source.status)
    now = s.clock.now()
    origin = dict(_properties(source)).get(REUSED_FROM, source.key.name)
    progress = JobProgress(
        started_at=now,
        ended_at=now,
        exit_code=before.progress.exit_code,
        logs=before.progress.logs,
        registered=before.progress.registered,
    )
    plan = replace(plan, outputs=before.plan.outputs, artifacts=before.plan.artifacts)
    if plan.serverless:
        plan = replace(plan, serverless="", compute_uid="")  # it needs no nodes
    values = [(name, value) for name, value in _properties(source).items() if name == CONTROL]
    note = f"Reused: {origin} ran the same command on the same inputs, and its outputs are still there."
    return Prepared(
        state=JobState.COMPLETED,
        status=JobStatus(plan, progress, result_key=key),
        job_type="Command",
        where="the results of an earlier run",
        notes=(("Reused", note), ("Completed", "Completed without running.")),
        properties=((REUSED, "true"), (REUSED_FROM, origin), *values),
        ref=plan.compute_uid,
    )


def _properties(row: Resource) -> dict[str, str]:
    return {str(k): str(v) for k, v in maybe(decode_object(row.spec).get("properties")).items()}


def keep(tx: Tx, job: Resource, uid: str, now: int) -> None:
    """Remembers a completed step's result: the newest one counts. `uid`: of the row, if it is new."""
    key = job_status(job.status).result_key
    if not key or job.state != JobState.COMPLETED or _properties(job).get(REUSED):
        return
    row = tx.get(Key(job.key.scope, TYPE, key))
    if row is None:
        tx.insert(Resource(uid, Key(job.key.scope, TYPE, key), ref=job.uid, created_at=now, modified_at=now))
    elif row.ref != job.uid:
        tx.update(replace(row, ref=job.uid, modified_at=now))
