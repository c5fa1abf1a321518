"""Batch endpoints: made, changed (the default deployment) and deleted. Rows: `batch_rows`.

An endpoint is an address and the name of a default deployment: what it says holds from the commit on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.rows.batch_rows import (
    ENDPOINTS,
    default_of,
    deployment_key,
    deployments_of,
    endpoint_key,
    event,
    find_endpoint,
    no_deployment,
    unended,
)
from tidemill.app.rows.codec import encode
from tidemill.app.rows.putting import put_row
from tidemill.app.services import Services
from tidemill.app.serving.endpoint_bodies import merged
from tidemill.app.workspaces.workspaces import require_workspace
from tidemill.domain.errors import Conflict, InvalidRequest, NotOffered
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.serving.batch import AAD_TOKEN, BatchEndpointSpec, read_endpoint
from tidemill.domain.serving.model import Provisioning
from tidemill.domain.units import join_words
from tidemill.store.api import Granted, ResourceQuery, Tx

# Set by the server: not kept.
COMPUTED = ("provisioningState", "scoringUri", "swaggerUri", "keys")


async def put(
    s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """Creates or replaces -> (row, created). Defaults of which nothing is said stay. Raises InvalidRequest,
    NotOffered, NotFound for a default deployment that is not there."""
    given = object_at(body, "properties")
    spec = read_endpoint(name, given)
    _check_identity(name, object_at(body, "identity", "identity"))
    kept = {field: value for field, value in given.items() if field not in COMPUTED and value is not None}
    draft = _Draft(
        caller.name,
        scope,
        spec,
        {**kept, "properties": object_at(given, "properties", "properties.properties")},
        object_at(body, "tags"),
        str(body.get("location") or s.settings.region),
        s.clock.now(),
        s.ids.uid(),
    )
    return await put_row(s, draft.write)


async def patch(s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]) -> Resource:
    """Changes what is given, by the rules of `put`; null takes a tag or a property away. Raises NotFound."""
    row = await get(s, scope, name)
    wanted = {**merged(row, body), "identity": body.get("identity")}
    return (await put(s, caller, scope, row.key.name, wanted))[0]


def _check_identity(name: str, identity: Mapping[str, Any]) -> None:
    """`SystemAssigned` is what Azure gives every endpoint, and what its jobs do not use either."""
    if identity.get("userAssignedIdentities"):
        raise NotOffered(
            f"Endpoint {name!r} names identities: jobs of a batch endpoint run in the name of whoever calls "
            "it. Leave 'identity' out.",
            "identity",
        )


@dataclass(frozen=True, slots=True)
class _Draft:
    """A checked body, and who gave it."""

    by: str
    scope: Scope
    spec: BatchEndpointSpec
    given: Mapping[str, Any]
    tags: Mapping[str, Any]
    location: str
    now: int
    uid: str

    def write(self, tx: Tx) -> tuple[Resource, bool]:
        old = tx.get(endpoint_key(self.scope, self.spec.name))
        return (self._insert(tx), True) if old is None else (self._update(tx, old), False)

    def _insert(self, tx: Tx) -> Resource:
        require_workspace(tx, self.scope)
        row = Resource(
            uid=self.uid,
            key=endpoint_key(self.scope, self.spec.name),
            state=Provisioning.SUCCEEDED,
            spec=self._spec(self.spec.default or ""),
            status=b"{}",
            tags=encode(dict(self.tags)),
            location=self.location,
            created_at=self.now,
            modified_at=self.now,
            created_by=self.by,
        )
        self._check_default(tx, row)
        tx.add_event(event(row, self.now, "Created", f"Created by {self.by}.", self.by))
        return tx.insert(row)

    def _update(self, tx: Tx, old: Resource) -> Resource:
        default = default_of(old) if self.spec.default is None else self.spec.default
        row = replace(old, spec=self._spec(default), tags=encode(dict(self.tags)), modified_at=self.now)
        if (row.spec, row.tags) == (old.spec, old.tags):
            return old
        said = ""
        if default != default_of(old):
            self._check_default(tx, row)
            said = f": the default deployment is {default or 'none'}"
        tx.add_event(event(row, self.now, "Updated", f"Updated by {self.by}{said}.", self.by))
        return tx.update(row)

    def _spec(self, default: str) -> bytes:
        defaults = {"defaults": {"deploymentName": default}} if default else {}
        rest = {field: value for field, value in self.given.items() if field != "defaults"}
        return encode({**rest, "authMode": AAD_TOKEN, **defaults})

    def _check_default(self, tx: Tx, row: Resource) -> None:
        name = default_of(row)
        if name and tx.get(deployment_key(self.scope, row.key.name, name)) is None:
            error = no_deployment(tx, row, name)
            error.target = "properties.defaults.deploymentName"
            raise error


async def get(s: Services, scope: Scope, name: str) -> Resource:
    """Raises NotFound naming the endpoints that exist."""
    return await s.store.read(lambda read: find_endpoint(read, scope, name))


async def list_of(
    s: Services, scope: Scope, *, limit: int = 0, after: str | None = None, granted: Granted | None = None
) -> Sequence[Resource]:
    """Oldest first. `granted`: only those with a role of their own (`access.Part`)."""
    query = ResourceQuery(ENDPOINTS, scope, ascending=True, limit=limit, after=after, granted=granted)
    return await s.store.read(lambda read: read.find(query))


async def refuse_keys(s: Services, scope: Scope, name: str) -> None:
    """Raises NotFound, else InvalidRequest: there are none."""
    row = await get(s, scope, name)
    raise InvalidRequest(
        f"Batch endpoint {row.key.name!r} has auth mode {AAD_TOKEN}, so it has no keys. Call it with a token "
        "of your own.",
        "EndpointHasNoKeys",
        row.key.name,
    )


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> Resource | None:
    """With its deployments -> the row as it was; None where there was none. Its jobs stay. Raises Conflict
    while one of them has not ended."""
    now = s.clock.now()

    def change(tx: Tx) -> Resource | None:
        row = tx.get(endpoint_key(scope, name))
        if row is None:
            return None
        deployments = deployments_of(tx, row)
        refuse_in_use(
            f"Batch endpoint {row.key.name!r}", [job for one in deployments for job in unended(tx, one)]
        )
        for one in (*deployments, row):
            tx.delete(one)
            tx.add_event(event(one, now, "Deleted", f"Deleted by {caller.name}.", caller.name))
        return row

    return await s.store.write(change)


def refuse_in_use(what: str, jobs: Sequence[Resource]) -> None:
    """Raises Conflict naming the jobs."""
    if not jobs:
        return
    names = join_words((f"{job.key.name} ({job.state})" for job in jobs), most=3)
    raise Conflict(
        f"{what} has jobs that have not ended: {names}. Wait for them, or cancel them: tidemill job cancel "
        f"--name {jobs[0].key.name}",
        "EndpointInUse",
        jobs[0].key.name,
    )
