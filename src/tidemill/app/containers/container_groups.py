"""Container groups (Microsoft.ContainerInstance): what they are to be. Rows: `container_rows`.

A PUT resolves all that is named and stores it as the row's status, in state Creating or Updating; the
container groups controller starts and stops runs and writes Succeeded or Failed. A group that is stopped has
no node, and one in state Deleting goes with its last run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tidemill.app.computes import egress, implicit_computes, isolation
from tidemill.app.computes.compute_rules import object_at
from tidemill.app.computes.teams import TAG as TEAM_TAG
from tidemill.app.computes.teams import team_of
from tidemill.app.containers import container_images
from tidemill.app.containers.container_bodies import shown_properties
from tidemill.app.errors import at
from tidemill.app.jobs import admission
from tidemill.app.people import access
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.container_rows import (
    GROUPS,
    being_deleted,
    event,
    find_group,
    group_key,
    group_status,
    merged,
    place_of,
    runs_of,
    secrets_of,
)
from tidemill.app.rows.sealed import FIELD, seal
from tidemill.app.services import Services
from tidemill.app.waiting import wait_set
from tidemill.app.workspaces import groups
from tidemill.app.workspaces.workspaces import account_of, scope_of
from tidemill.catalog.sizes import container_size
from tidemill.domain.containers.model import RUNTIME_TAG, SANDBOX, SHARE, GroupSpec, Secrets, VolumeSpec
from tidemill.domain.containers.reading import read_group
from tidemill.domain.containers.status import GroupStatus
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.ids import PROVIDER
from tidemill.domain.isolation import TAG as ISOLATION_TAG
from tidemill.domain.isolation import level_of, strictest
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import Caller, JobState, Key, Resource, Scope
from tidemill.domain.plan import PlannedEnvironment
from tidemill.domain.scheduling.types import ClusterSpec
from tidemill.domain.serving.model import Provisioning
from tidemill.engines.base import EngineError
from tidemill.store.api import AlreadyExists, Read, ResourceQuery, Tx

RUN_BY = (ISOLATION_TAG, RUNTIME_TAG, TEAM_TAG)  # tags that say how it runs
KEYS = f"{PROVIDER}/workspaces/listKeys/action"  # whoever may ask for an account's key may read its blobs


async def put(
    s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """Creates or replaces -> (row, created). The same again changes nothing; a failed or stopped group is
    started. Raises InvalidRequest, NotOffered, NotFound, Conflict, Forbidden."""
    spec, secrets = read_group(name, body)
    scope = replace(scope, group=(await groups.get(s, scope)).key.name)
    old = await s.store.read(lambda read: read.get(group_key(scope, name)))
    before = "" if old is None else old.uid
    uid = before or s.ids.uid()
    tags = object_at(body, "tags")
    plan = await _plan(s, caller, scope, uid, spec, tags)
    plan = replace(plan, secrets=_sealed(s, uid, secrets))
    await asyncio.to_thread(_prepare_storage, s, scope)
    location = str(body.get("location") or s.settings.region)
    properties = shown_properties(object_at(body, "properties"))
    key = group_key(scope, name)
    draft = _Draft(s, caller.name, before, uid, key, plan, secrets, properties, tags, location)
    try:
        return await s.store.write(draft.write)
    except AlreadyExists as error:
        raise _overtaken(name) from error


def _overtaken(name: str) -> Conflict:
    return Conflict(
        f"Container group {name!r} was made or deleted by somebody else just now. Look at it, and try again.",
        "ContainerGroupChanged",
        name,
    )


def _prepare_storage(s: Services, scope: Scope) -> None:
    """For the logs of its runs."""
    place = place_of(scope, "")
    s.blobs.ensure_account(place.account)
    s.blobs.ensure_container(place.account, place.container)


async def _plan(
    s: Services, caller: Caller, scope: Scope, uid: str, spec: GroupSpec, tags: Mapping[str, Any]
) -> GroupStatus:
    """Nothing is written. Raises what a user can mend."""
    egress.check_tags(tags, "tags")
    if not (network := (await s.engine.isolation()).get("network")) or not network.enforced:
        raise InvalidRequest(
            "A container group needs a network of its own (its ports are fixed), and this host gives nodes "
            "none. See: tidemill doctor",
            "NetworkMissing",
        )
    if spec.runtime != SANDBOX:
        await _check_runtime(s, spec.runtime)
    images: list[PlannedEnvironment] = []
    for number, one in enumerate(spec.every):
        before = len(spec.init)
        place = f"initContainers[{number}]" if number < before else f"containers[{number - before}]"
        with at(f"properties.{place}.properties.image"):
            owner = container_images.owner_of(uid)
            images.append(await container_images.plan(s, caller, scope, owner, one.image))
    await _check_shares(s, caller, spec)
    level = strictest(s.settings.require_isolation, level_of(tags, "tags"))
    if level:
        await isolation.check_host(s, level)
    team = await team_of(s, caller, tags)
    size = container_size(spec.cpu_milli, spec.memory)
    compute_uid = s.ids.uid()
    cluster = ClusterSpec(
        uid=compute_uid,
        name=spec.label,
        workspace=scope,
        size=size.name,
        node=size.vector,
        min_nodes=0,
        max_nodes=1,
        idle_us=0,
        region=s.settings.region,
        family=size.family,
        purpose=_purpose(spec),
    )
    with at("properties.containers"):
        await admission.check(s, caller, cluster, CommandJob("", display_name=spec.name), team)
    user = caller.acts_as or caller.oid
    return GroupStatus(spec, tuple(images), size.name, compute_uid, team=team, user=user, isolation=level)


async def _check_runtime(s: Services, name: str) -> None:
    """Raises InvalidRequest with what this host lacks."""
    try:
        found = (await s.engine.runtimes()).get(name)
        why = found.why_not if found is not None else "the engine that runs containers here knows no such"
    except EngineError as error:
        why = str(error)
    if why:
        raise InvalidRequest(
            f"Tag {RUNTIME_TAG} is {name!r}, which cannot run containers here: {why.rstrip('.')}. Mend that, "
            "or leave the tag out: the sandbox runs them then.",
            "RuntimeNotAvailable",
            f"tags.{RUNTIME_TAG}",
        )


async def _check_shares(s: Services, caller: Caller, spec: GroupSpec) -> None:
    """A share is a container of a workspace's blobs, which the caller may read by the account's key. Raises
    InvalidRequest, AccessDenied."""
    shares = [one for one in spec.volumes if one.kind == SHARE]
    if not shares:
        return
    workspaces = {
        account_of(row): scope_of(row)
        for row in await s.store.read(lambda read: read.find(ResourceQuery("workspaces")))
    }
    for one in shares:
        where = f"properties.volumes[{spec.volumes.index(one)}].azureFile"
        owner = workspaces.get(one.account)
        if owner is None:
            raise InvalidRequest(
                f"{where}.storageAccountName {one.account!r} is the storage account of no workspace here. "
                "tidemill workspace show names a workspace's.",
                "StorageAccountNotFound",
                where,
            )
        await access.authorise(s, caller, KEYS, owner)
        if not await asyncio.to_thread(_has_blobs, s, one):
            raise InvalidRequest(
                f"{where}.shareName {one.container}/{one.folder}: nothing is stored there in account "
                f"{one.account}.",
                "ShareNotFound",
                where,
            )


def _has_blobs(s: Services, share: VolumeSpec) -> bool:
    if s.blobs.container(share.account, share.container) is None:
        return False
    return bool(s.blobs.list(share.account, share.container, share.folder, limit=1).blobs)


def _purpose(spec: GroupSpec) -> str:
    return f"container group '{spec.name}'"


def _sealed(s: Services, uid: str, secrets: Secrets) -> str:
    if secrets == Secrets():
        return ""
    return str(decode_object(seal(s, uid, asdict(secrets)))[FIELD])


@dataclass(frozen=True, slots=True)
class _Draft:
    """A checked body with its plan, and who gave it. `before`: uid of the group that it changes, "" for a new
    one."""

    s: Services
    by: str
    before: str
    uid: str
    key: Key
    plan: GroupStatus
    secrets: Secrets
    spec: Mapping[str, Any]
    tags: Mapping[str, Any]
    location: str

    def write(self, tx: Tx) -> tuple[Resource, bool]:
        old = tx.get(self.key)
        if ("" if old is None else old.uid) != self.before:
            raise _overtaken(self.key.name)
        return (self._insert(tx), True) if old is None else (self._update(tx, old), False)

    def _insert(self, tx: Tx) -> Resource:
        now, plan = self.s.clock.now(), self.plan
        row = Resource(
            uid=self.uid,
            key=self.key,
            state=Provisioning.CREATING,
            spec=encode(self.spec),
            status=encode(plan),
            tags=encode(dict(self.tags)),
            location=self.location,
            ref=plan.compute_uid,
            created_at=now,
            modified_at=now,
            created_by=self.by,
        )
        wanted = implicit_computes.Wanted(
            plan.spec.label, _purpose(plan.spec), plan.size, 1, region=self.location, tags=self._bill()
        )
        implicit_computes.make(tx, plan.compute_uid, row, wanted, now)
        tx.add_event(event(row, now, "Created", f"Created by {self.by}: {_shape(plan)}.", self.by))
        return tx.insert(row)

    def _update(self, tx: Tx, old: Resource) -> Resource:
        if old.state == Provisioning.DELETING:
            raise being_deleted(old)
        now, before = self.s.clock.now(), group_status(old)
        self._check_fixed(before)
        same = (
            before.wanted
            and old.state != Provisioning.FAILED
            and (before.spec, before.isolation) == (self.plan.spec, self.plan.isolation)
            and decode_object(old.tags).get(TEAM_TAG) == self.tags.get(TEAM_TAG)
            and self._has_kept(old)
        )
        row = replace(old, tags=encode(dict(self.tags)), spec=encode(self.spec))
        compute = implicit_computes.of_owner(tx, old)
        if compute is not None and compute.tags != encode(self._bill()):
            tx.update(replace(compute, tags=encode(self._bill()), modified_at=now))
        if same:
            return old if row == old else tx.update(replace(row, modified_at=now))
        plan = replace(
            self.plan,
            compute_uid=before.compute_uid,
            generation=before.generation + 1,
            fulfilled=before.fulfilled,
        )
        tx.add_event(event(row, now, "Updated", f"Updated by {self.by}: it starts anew.", self.by))
        state = Provisioning.UPDATING
        return tx.update(replace(row, status=encode(plan), state=state, modified_at=now))

    def _has_kept(self, old: Resource) -> bool:
        """Its secrets are the same. What does not open any more is given anew."""
        try:
            return secrets_of(self.s, old) == self.secrets
        except ValueError:
            return False

    def _check_fixed(self, before: GroupStatus) -> None:
        """As in Azure, what a group has once it has until it is deleted. Raises Conflict."""
        for what, was, wanted in (
            ("CPU and memory", before.size, self.plan.size),
            ("restart policy", before.spec.restart, self.plan.spec.restart),
        ):
            if was != wanted:
                raise Conflict(
                    f"The {what} of container group {self.key.name!r} cannot be changed ({was} to {wanted}). "
                    "Delete the group and create it anew.",
                    "InvalidContainerGroupUpdate",
                    self.key.name,
                )

    def _bill(self) -> dict[str, str]:
        """The tags of its compute. What its node may reach besides is the home's to say, not the caller's."""
        return {key: str(value) for key, value in self.tags.items() if key != egress.TAG}


def _shape(plan: GroupStatus) -> str:
    names = ", ".join(f"{one.name} ({one.image})" for one in plan.spec.every)
    return f"{names}; {plan.spec.cpu_milli / 1000:g} CPU, {plan.spec.memory / 2**30:g} GiB"


async def patch_tags(s: Services, scope: Scope, name: str, body: Mapping[str, Any]) -> Resource:
    """Azure's PATCH of a group changes its tags alone. Raises NotFound, InvalidRequest."""
    tags = object_at(body, "tags")
    egress.check_tags(tags, "tags")

    def change(tx: Tx) -> Resource:
        row, now = find_group(tx, scope, name), s.clock.now()
        kept = merged(row.tags, tags)
        _check_run_as_before(decode_object(row.tags), kept)
        billed = encode({key: str(value) for key, value in kept.items() if key != egress.TAG})
        if row.tags == encode(kept):
            return row
        compute = implicit_computes.of_owner(tx, row)
        if compute is not None:
            tx.update(replace(compute, tags=billed, modified_at=now))
        return tx.update(replace(row, tags=encode(kept), modified_at=now))

    return await s.store.write(change)


def _check_run_as_before(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """What nothing is started anew for must not be said of it. Raises InvalidRequest."""
    for tag in RUN_BY:
        if held.get(tag) != wanted.get(tag):
            raise InvalidRequest(
                f"tags.{tag} cannot be {wanted.get(tag)!r} by a change of tags alone: it says how the "
                "containers run. Create the group with it again (PUT): they start anew.",
                "InvalidTag",
                f"tags.{tag}",
            )


async def get(s: Services, scope: Scope, name: str) -> Resource:
    """Raises NotFound naming what exists."""
    return await s.store.read(lambda read: find_group(read, scope, name))


async def list_of(
    s: Services, scope: Scope | None, *, limit: int = 0, after: str | None = None
) -> Sequence[Resource]:
    """Oldest first. None: of all resource groups."""
    query = ResourceQuery(GROUPS, scope, ascending=True, limit=limit, after=after)
    return await s.store.read(lambda read: read.find(query))


async def start(s: Services, caller: Caller, scope: Scope, name: str) -> Resource:
    """Of a group that is stopped, whose containers have ended, or that failed. One that runs is left alone.
    Raises NotFound, Conflict."""

    def change(tx: Tx) -> Resource:
        row = _changeable(tx, scope, name)
        status = group_status(row)
        live = [run for run in runs_of(tx, row) if not JobState(run.state).final]
        if status.wanted and row.state != Provisioning.FAILED and live:
            return row
        return _anew(tx, row, f"Started by {caller.name}.", s.clock.now(), caller.name)

    return await s.store.write(change)


async def restart(s: Services, caller: Caller, scope: Scope, name: str) -> Resource:
    """All containers end, and start anew. Raises NotFound, Conflict."""

    def change(tx: Tx) -> Resource:
        row = _changeable(tx, scope, name)
        return _anew(tx, row, f"Restarted by {caller.name}.", s.clock.now(), caller.name)

    return await s.store.write(change)


def _anew(tx: Tx, row: Resource, said: str, now: int, by: str) -> Resource:
    status = group_status(row)
    status = replace(status, wanted=True, generation=status.generation + 1, error=None)
    tx.add_event(event(row, now, "Starting", said, by))
    return tx.update(replace(row, state=Provisioning.UPDATING, status=encode(status), modified_at=now))


async def stop(s: Services, caller: Caller, scope: Scope, name: str) -> Resource:
    """Its containers end, its node closes, and it costs nothing. Raises NotFound, Conflict."""

    def change(tx: Tx) -> Resource:
        row = _changeable(tx, scope, name)
        status = group_status(row)
        if not status.wanted:
            return row
        now = s.clock.now()
        tx.add_event(event(row, now, "Stopping", f"Stopped by {caller.name}.", caller.name))
        status = replace(status, wanted=False, generation=status.generation + 1, error=None)
        return tx.update(replace(row, state=Provisioning.UPDATING, status=encode(status), modified_at=now))

    return await s.store.write(change)


async def stopped(s: Services, row: Resource, timeout_s: float) -> bool:
    """Waits until nothing runs of a group that is to be stopped, and its node is closed. -> False: it did
    not come to that in time. Raises Conflict where somebody has started it again."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while (left := deadline - loop.time()) > 0:
        waits_for = await s.store.read(lambda read: _still_there(read, row.uid))
        if not waits_for:
            return True
        with s.live.watching(waits_for) as changed:
            await wait_set(changed, min(left, 1.0))
    return False


def _still_there(read: Read, uid: str) -> str:
    """The uid of its run, or the id of its node; "" for none. Raises Conflict."""
    row = read.by_uid(uid)
    if row is None:
        return ""
    if (status := group_status(row)).wanted:
        raise Conflict(
            f"Container group {row.key.name!r} was started again meanwhile: it is not stopped.",
            "Superseded",
            row.key.name,
        )
    live = [run.uid for run in runs_of(read, row) if not JobState(run.state).final]
    return next(iter([*live, *(node.id for node in read.nodes_of(status.compute_uid))]), "")


def _changeable(read: Read, scope: Scope, name: str) -> Resource:
    row = find_group(read, scope, name)
    if row.state == Provisioning.DELETING:
        raise being_deleted(row)
    return row


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> Resource | None:
    """-> the row as it then is; None where there was none."""

    def change(tx: Tx) -> Resource | None:
        row, now = tx.get(group_key(scope, name)), s.clock.now()
        if row is None or row.state == Provisioning.DELETING:
            return row
        said = f"Being deleted by {caller.name}."
        tx.add_event(event(row, now, Provisioning.DELETING, said, caller.name))
        return tx.update(replace(row, state=Provisioning.DELETING, modified_at=now))

    return await s.store.write(change)


def finish_deletion(tx: Tx, row: Resource, now: int) -> None:
    """Of a group whose runs have all ended and are removed."""
    implicit_computes.remove(tx, row, now)
    tx.delete(row)
    tx.add_event(event(row, now, "Deleted", "Its containers have ended."))
