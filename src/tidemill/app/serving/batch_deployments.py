"""Deployments of batch endpoints: what a call runs, looked up and stored when one is put (`batch_rows`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.rows.batch_rows import (
    BatchDeploymentStatus,
    default_of,
    deployment_key,
    deployments_of,
    endpoint_key,
    event,
    find_deployment,
    find_endpoint,
    unended,
)
from tidemill.app.rows.codec import encode
from tidemill.app.rows.putting import put_row
from tidemill.app.services import Services
from tidemill.app.serving.batch_endpoints import refuse_in_use
from tidemill.app.serving.batch_planning import plan
from tidemill.app.serving.endpoint_bodies import merged
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Caller, Key, Resource, Scope
from tidemill.domain.serving.batch import (
    APPEND_ROW,
    PIPELINE,
    SUMMARY_ONLY,
    BatchDeploymentSpec,
    read_deployment,
)
from tidemill.domain.serving.model import Provisioning
from tidemill.store.api import Tx

COMPUTED = ("provisioningState",)


async def put(
    s: Services, caller: Caller, scope: Scope, endpoint: str, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """Creates or replaces -> (row, created). Jobs that were called before stay as they are. Raises
    InvalidRequest, NotFound, NotOffered, Conflict, Forbidden."""
    above = await s.store.read(lambda read: find_endpoint(read, scope, endpoint))
    given = object_at(body, "properties")
    spec = read_deployment(above.key.name, name, given)
    status = await plan(s, caller, scope, spec)
    draft = _Draft(
        caller.name,
        deployment_key(scope, above.key.name, name),
        spec,
        status,
        {**_kept(given), **_completed(spec)},
        object_at(body, "tags"),
        str(body.get("location") or above.location),
        s.clock.now(),
        s.ids.uid(),
    )
    return await put_row(s, draft.write)


async def patch(
    s: Services, caller: Caller, scope: Scope, endpoint: str, name: str, body: Mapping[str, Any]
) -> Resource:
    """Changes what is given (tags, properties), by the rules of `put`. Raises NotFound."""
    row = await get(s, scope, endpoint, name)
    return (await put(s, caller, scope, row.key.parent, row.key.name, merged(row, body)))[0]


def _kept(given: Mapping[str, Any]) -> dict[str, Any]:
    kept = {field: value for field, value in given.items() if field not in COMPUTED and value is not None}
    return {**kept, "properties": object_at(given, "properties", "properties.properties")}


def _completed(spec: BatchDeploymentSpec) -> dict[str, Any]:
    """Azure's defaults, which clients read back. The SDK reads the file's name of APPEND_ROW alone."""
    if spec.kind == PIPELINE:
        return {}
    batching = spec.batching
    return {
        "errorThreshold": batching.errors,
        "maxConcurrencyPerInstance": batching.concurrency,
        "miniBatchSize": batching.size,
        "loggingLevel": batching.logging_level.capitalize(),
        "outputAction": APPEND_ROW if spec.append else SUMMARY_ONLY,
        "outputFileName": spec.output_file,
        "retrySettings": {"maxRetries": batching.retries, "timeout": f"PT{batching.timeout_s:g}S"},
        "environmentVariables": dict(spec.environment_variables),
    }


@dataclass(frozen=True, slots=True)
class _Draft:
    """A checked body, what was found of it, and who gave it."""

    by: str
    key: Key
    spec: BatchDeploymentSpec
    status: BatchDeploymentStatus
    given: Mapping[str, Any]
    tags: Mapping[str, Any]
    location: str
    now: int
    uid: str

    def write(self, tx: Tx) -> tuple[Resource, bool]:
        endpoint = find_endpoint(tx, self.key.scope, self.key.parent)
        old = tx.get(self.key)
        return (self._insert(tx, endpoint), True) if old is None else (self._update(tx, old), False)

    def _insert(self, tx: Tx, endpoint: Resource) -> Resource:
        row = Resource(
            uid=self.uid,
            key=self.key,
            state=Provisioning.SUCCEEDED,
            spec=encode(self.given),
            status=encode(self.status),
            tags=encode(dict(self.tags)),
            location=self.location,
            parent_uid=endpoint.uid,
            created_at=self.now,
            modified_at=self.now,
            created_by=self.by,
        )
        tx.add_event(event(row, self.now, "Created", f"Created by {self.by}: {self._runs()}.", self.by))
        return tx.insert(row)

    def _update(self, tx: Tx, old: Resource) -> Resource:
        row = replace(
            old,
            spec=encode(self.given),
            status=encode(self.status),
            tags=encode(dict(self.tags)),
            modified_at=self.now,
        )
        if (row.spec, row.status, row.tags) == (old.spec, old.status, old.tags):
            return old
        tx.add_event(event(row, self.now, "Updated", f"Updated by {self.by}: {self._runs()}.", self.by))
        return tx.update(row)

    def _runs(self) -> str:
        """`script score.py with model digits:3`."""
        if self.spec.kind == PIPELINE:
            return f"pipeline component {self.status.component_label}"
        model = f"model {self.status.model_label}" if self.spec.model else ""
        script = f"script {self.spec.scoring_script}" if self.spec.scoring_script else ""
        return " with ".join(part for part in (script, model) if part)


async def get(s: Services, scope: Scope, endpoint: str, name: str) -> Resource:
    """Raises NotFound naming what exists."""
    return await s.store.read(lambda read: find_deployment(read, scope, endpoint, name))


async def list_of(
    s: Services, scope: Scope, endpoint: str, *, limit: int = 0, after: str | None = None
) -> Sequence[Resource]:
    """Oldest first. Raises NotFound for an endpoint that is not there."""

    return await s.store.read(
        lambda read: deployments_of(read, find_endpoint(read, scope, endpoint), limit, after)
    )


async def delete(s: Services, caller: Caller, scope: Scope, endpoint: str, name: str) -> Resource | None:
    """-> the row as it was; None where there was none. Its jobs stay. Raises Conflict for the endpoint's
    default, and while a job of it has not ended."""
    now = s.clock.now()

    def change(tx: Tx) -> Resource | None:
        above = tx.get(endpoint_key(scope, endpoint))
        row = tx.get(deployment_key(scope, endpoint, name))
        if row is None or above is None:
            return None
        if default_of(above) == row.key.name:
            raise Conflict(
                f"Deployment {row.key.name!r} is the default of batch endpoint {above.key.name!r}: calls "
                "that name none go to it. Make another one the default first: tidemill batch endpoint "
                f"update --name {above.key.name} --default OTHER. Deleting the endpoint deletes it, too.",
                "DeploymentIsDefault",
                row.key.name,
            )
        refuse_in_use(f"Deployment {row.key.name!r}", unended(tx, row))
        tx.delete(row)
        tx.add_event(event(row, now, "Deleted", f"Deleted by {caller.name}.", caller.name))
        return row

    return await s.store.write(change)
