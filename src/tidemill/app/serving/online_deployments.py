"""Deployments of managed online endpoints: what they are to be. Rows: `endpoint_rows`.

A PUT resolves everything that is named and stores it as the row's plan, in state Creating or Updating; the
deployments controller brings instances up and writes Succeeded or Failed. A row in state Deleting goes with
its last instance (`finish_deletion`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.computes import egress, implicit_computes
from tidemill.app.computes.compute_rules import object_at
from tidemill.app.rows.codec import encode
from tidemill.app.rows.endpoint_rows import (
    AUTOSCALE,
    being_deleted,
    deployment_key,
    deployment_status,
    deployments_of,
    endpoint_key,
    event,
    find_deployment,
    find_endpoint,
    mirror_of,
    traffic_of,
)
from tidemill.app.rows.putting import put_row
from tidemill.app.services import Services
from tidemill.app.serving.deployment_planning import plan_deployment
from tidemill.app.serving.endpoint_bodies import merge, merged
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Caller, JobState, Key, Resource, Scope
from tidemill.domain.serving.model import Change, Provisioning, change_between, read_deployment
from tidemill.domain.serving.plan import DeploymentPlan, DeploymentStatus
from tidemill.domain.units import plural
from tidemill.sandbox.egress import CLOSED
from tidemill.store.api import ResourceQuery, Tx

COMPUTED = ("provisioningState",)
DEFAULT_SKU = "Default"
SURGE = 2  # nodes of a deployment at most, per instance: old and new ones live side by side in an update
_FINAL = tuple(state.value for state in JobState if state.final)


async def put(
    s: Services, caller: Caller, scope: Scope, endpoint: str, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """Creates or replaces -> (row, created). What asks for nothing new leaves its instances alone; a
    failed one is tried again. Raises InvalidRequest, NotFound, NotOffered, Conflict, Forbidden."""
    above = await s.store.read(lambda read: find_endpoint(read, scope, endpoint))
    given, sku = object_at(body, "properties"), object_at(body, "sku")
    spec = read_deployment(above.key.name, name, given, sku)
    tags = object_at(body, "tags")
    plan = await plan_deployment(s, caller, scope, above, spec, tags, s.ids.uid())
    stored = {
        **{field: value for field, value in given.items() if field not in COMPUTED and value is not None},
        "properties": object_at(given, "properties", "properties.properties"),
        "environmentVariables": dict(spec.environment_variables),
        "endpointComputeType": "Managed",
        "instanceType": s.sizes.require(spec.instance_type).name,
        "scaleSettings": {
            **object_at(given, "scaleSettings", "properties.scaleSettings"),
            "scaleType": spec.scale.kind,
        },
    }
    draft = _Draft(
        s,
        caller.name,
        deployment_key(scope, above.key.name, name),
        plan,
        stored,
        {"name": DEFAULT_SKU, **sku, "capacity": spec.instances},
        tags,
        str(body.get("location") or above.location),
        s.clock.now(),
        s.ids.uid(),
    )
    return await put_row(s, draft.write)


async def patch(
    s: Services, caller: Caller, scope: Scope, endpoint: str, name: str, body: Mapping[str, Any]
) -> Resource:
    """Changes what is given (tags, sku, properties), by the rules of `put`. Raises NotFound."""
    row = await get(s, scope, endpoint, name)
    sku = merge(deployment_status(row).sku, object_at(body, "sku"))
    wanted = {**merged(row, body), "sku": sku}
    return (await put(s, caller, scope, row.key.parent, row.key.name, wanted))[0]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A checked body with its plan, and who gave it."""

    s: Services
    by: str
    key: Key
    plan: DeploymentPlan
    spec: Mapping[str, Any]
    sku: dict[str, Any]
    tags: Mapping[str, Any]
    location: str
    now: int
    uid: str

    def write(self, tx: Tx) -> tuple[Resource, bool]:
        endpoint = find_endpoint(tx, self.key.scope, self.key.parent)
        if endpoint.state == Provisioning.DELETING:
            raise being_deleted(endpoint)
        old = tx.get(self.key)
        return (self._insert(tx, endpoint), True) if old is None else (self._update(tx, old), False)

    def _insert(self, tx: Tx, endpoint: Resource) -> Resource:
        row = Resource(
            uid=self.uid,
            key=self.key,
            state=Provisioning.CREATING,
            spec=encode(self.spec),
            status=encode(DeploymentStatus(self.plan, sku=self.sku)),
            tags=encode(dict(self.tags)),
            location=self.location,
            ref=self.plan.compute_uid,
            parent_uid=endpoint.uid,
            created_at=self.now,
            modified_at=self.now,
            created_by=self.by,
        )
        spec = self.plan.spec
        implicit_computes.make(
            tx,
            self.plan.compute_uid,
            row,
            implicit_computes.Wanted(
                spec.label,
                f"deployment '{spec.endpoint}/{spec.name}'",
                str(self.spec["instanceType"]),
                SURGE * max(1, spec.instances, spec.scale.maximum),
                tags=self._bill(),
            ),
            self.now,
        )
        shape = f"{plural(spec.instances, 'instance')} of {self.spec['instanceType']}"
        tx.add_event(event(row, self.now, "Created", f"Created by {self.by}: {shape}.", self.by))
        for note in self.plan.environment.notes:
            tx.add_event(event(row, self.now, "Note", note))
        return tx.insert(row)

    def _update(self, tx: Tx, old: Resource) -> Resource:
        if old.state == Provisioning.DELETING:
            raise being_deleted(old)
        status = deployment_status(old)
        plan = replace(self.plan, compute_uid=status.plan.compute_uid)
        self._check_size(old, status.plan)
        change = _change(old, status.plan, plan)
        row = replace(
            old,
            spec=encode(self.spec),
            tags=encode(dict(self.tags)),
            status=encode(_asked(status, plan, self.sku, change)),
            state=old.state if change is Change.NONE else _begun(old.state),
            modified_at=self.now,
        )
        if (row.spec, row.tags, row.status, row.state) == (old.spec, old.tags, old.status, old.state):
            return old
        compute = implicit_computes.of_owner(tx, old)
        if compute is not None and compute.tags != encode(self._bill()):
            tx.update(replace(compute, tags=encode(self._bill()), modified_at=self.now))
        said = _WORDS[change].format(count=plural(plan.spec.instances, "instance"))
        tx.add_event(event(row, self.now, "Updated", f"Updated by {self.by}: {said}.", self.by))
        return tx.update(row)

    def _bill(self) -> dict[str, str]:
        """The tags of its compute: what goes on the bill, and that its nodes are closed if they are to be.
        What they may reach besides is not the caller's to say."""
        kept = {key: str(value) for key, value in self.tags.items() if key != egress.TAG}
        return kept if self.plan.spec.egress else {**kept, egress.TAG: CLOSED}

    def _check_size(self, old: Resource, held: DeploymentPlan) -> None:
        """Raises Conflict."""
        size = self.s.sizes.require(held.spec.instance_type).name
        if size != self.spec["instanceType"]:
            raise Conflict(
                f"Deployment {old.key.name!r} has instances of {size}; they cannot become "
                f"{self.spec['instanceType']}. Create another deployment and move the traffic to it.",
                "DeploymentPropertyImmutable",
                "properties.instanceType",
            )


_WORDS = {
    Change.NONE: "nothing that its instances know of",
    Change.ROUTE: "how requests reach its instances",
    Change.SCALE: "{count} from now on",
    Change.REPLACE: "its instances are replaced, new ones first",
}


def _change(old: Resource, held: DeploymentPlan, wanted: DeploymentPlan) -> Change:
    """What was resolved counts, too: a label may mean another version now. A failed one is tried again."""
    change = change_between(held.spec, wanted.spec)
    same = replace(held, spec=wanted.spec, team=wanted.team, user=wanted.user) == wanted
    if old.state == Provisioning.FAILED or not same:
        return Change.REPLACE
    return change


def _begun(state: str) -> str:
    """What has never been ready is still being created."""
    return Provisioning.CREATING if state == Provisioning.CREATING else Provisioning.UPDATING


def _asked(
    status: DeploymentStatus, plan: DeploymentPlan, sku: dict[str, Any], change: Change
) -> DeploymentStatus:
    if change is not Change.REPLACE:
        return replace(status, plan=plan, sku=sku)
    serves = status.serving_generation == status.generation
    return replace(
        status,
        plan=plan,
        generation=status.generation + 1,
        sku=sku,
        serving=status.plan if serves else status.serving,
        error=None,
    )


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
    """-> the row as it then is; None where there was none. Raises Conflict for one that has traffic."""
    now = s.clock.now()

    def change(tx: Tx) -> Resource | None:
        above = tx.get(endpoint_key(scope, endpoint))
        row = tx.get(deployment_key(scope, endpoint, name))
        if row is None or above is None:
            return None
        _check_no_traffic(above, row)
        return begin_deletion(tx, row, now, caller.name)

    return await s.store.write(change)


def _check_no_traffic(endpoint: Resource, row: Resource) -> None:
    name, above = row.key.name, endpoint.key.name
    share, mirrored = traffic_of(endpoint).get(name, 0), mirror_of(endpoint).get(name, 0)
    if share or mirrored:
        said = f"{share} % of the endpoint's traffic" if share else f"{mirrored} % of it mirrored"
        raise Conflict(
            f"Deployment {name!r} has {said}: take it away first, for example "
            f"tidemill endpoint traffic --name {above} OTHER=100. Deleting the endpoint deletes it, too.",
            "DeploymentHasTraffic",
            name,
        )


def begin_deletion(tx: Tx, row: Resource, now: int, by: str) -> Resource:
    """-> the row, Deleting, or as it was last where nothing of it was left."""
    if row.state == Provisioning.DELETING:
        return row
    tx.add_event(event(row, now, Provisioning.DELETING, f"Being deleted by {by}.", by))
    row = tx.update(replace(row, state=Provisioning.DELETING, modified_at=now))
    if not tx.count(ResourceQuery("jobs", row.key.scope, parent_uid=row.uid)):
        finish_deletion(
            tx, row, now
        )  # else the deployments controller does, which removes those that ended, too
    return row


def finish_deletion(tx: Tx, row: Resource, now: int) -> bool:
    """Removes a deployment in state Deleting once its instances have ended, and with the last one its
    endpoint, if that is to go. -> whether it is gone."""
    if tx.count(ResourceQuery("jobs", row.key.scope, parent_uid=row.uid, exclude_states=_FINAL)):
        return False
    implicit_computes.remove(tx, row, now)
    for setting in tx.find(ResourceQuery(AUTOSCALE, ref=row.uid)):
        tx.delete(setting)
    tx.delete(row)
    tx.add_event(event(row, now, "Deleted", "Its instances have ended."))
    endpoint = tx.get(endpoint_key(row.key.scope, row.key.parent))
    if endpoint is not None:
        finish_endpoint(tx, endpoint, now)
    return True


def finish_endpoint(tx: Tx, endpoint: Resource, now: int) -> None:
    if endpoint.state == Provisioning.DELETING and not deployments_of(tx, endpoint):
        tx.delete(endpoint)
        tx.add_event(event(endpoint, now, "Deleted", "Deleted, with its deployments."))
