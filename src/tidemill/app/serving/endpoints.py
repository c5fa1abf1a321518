"""Managed online endpoints: made, changed (traffic, auth mode), keyed and deleted. Rows: `endpoint_rows`.

An endpoint is an address, a way to sign in, and shares of traffic: what it says holds as soon as the gateway
has read it, milliseconds after the commit, so it is Succeeded at once. What takes time are its deployments
(`online_deployments`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tidemill.app.computes import identities
from tidemill.app.computes.compute_rules import object_at
from tidemill.app.computes.identities import ComputeIdentity
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.endpoint_rows import (
    ENDPOINTS,
    assigned_in,
    being_deleted,
    deployment_status,
    deployments_of,
    endpoint_key,
    endpoint_status,
    event,
    find_endpoint,
    mirror_of,
    traffic_of,
)
from tidemill.app.rows.putting import put_row
from tidemill.app.services import Services
from tidemill.app.serving import endpoint_keys, online_deployments
from tidemill.app.serving.endpoint_bodies import merged
from tidemill.app.serving.endpoint_keys import PRIMARY, SECONDARY, Keys
from tidemill.app.workspaces.workspaces import require_workspace
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.fields import choice
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.serving.limits import read_limits
from tidemill.domain.serving.model import AML_TOKEN, KEY, EndpointSpec, Provisioning, read_endpoint
from tidemill.domain.serving.plan import EndpointStatus
from tidemill.domain.serving.traffic import Traffic, check_traffic
from tidemill.domain.units import join_words
from tidemill.identity.tokens import ENDPOINT_TTL_S
from tidemill.store.api import Granted, Read, ResourceQuery, Tx

# Set by the server, or by the SDK from what it read: not kept.
COMPUTED = ("provisioningState", "scoringUri", "swaggerUri", "keys")
SDK_NOTES = ("createdBy", "createdAt", "lastModifiedAt")


async def put(
    s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """Creates or replaces -> (row, created). Keys and identity stay as they are once it is there, and
    traffic of which nothing is said. Raises InvalidRequest, NotOffered, Conflict, AccessDenied."""
    given = object_at(body, "properties")
    spec = read_endpoint(name, given)
    read_limits(object_at(given, "properties", "properties.properties"))
    identity = await identities.asked_for(s, caller, body, endpoint_key(scope, name))
    keys = endpoint_keys.given_or_new(object_at(given, "keys", "properties.keys"))
    draft = _Draft(
        s,
        caller.name,
        scope,
        spec,
        _kept(given),
        object_at(body, "tags"),
        str(body.get("location") or s.settings.region),
        identity,
        identities.new_oid(s),
        keys,
        s.clock.now(),
        s.ids.uid(),
    )
    found = await put_row(s, draft.write)
    await _routed(s)
    return found


async def _routed(s: Services) -> None:
    """Whoever is told that it is done finds it done: requests go by it from now on."""
    if s.live.routed is not None:
        await s.live.routed()


async def patch(s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]) -> Resource:
    """Changes what is given, by the rules of `put`; null takes a tag or a property away. Raises NotFound."""
    row = await get(s, scope, name)
    wanted = {**merged(row, body), "identity": body.get("identity")}
    return (await put(s, caller, scope, row.key.name, wanted))[0]


def _kept(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a body says besides what was read of it."""
    notes = object_at(given, "properties", "properties.properties")
    kept = {field: value for field, value in given.items() if field not in COMPUTED and value is not None}
    return {**kept, "properties": {key: value for key, value in notes.items() if key not in SDK_NOTES}}


@dataclass(frozen=True, slots=True)
class _Draft:
    """A checked body, and who gave it. `oid`: of a new system-assigned identity."""

    s: Services
    by: str
    scope: Scope
    spec: EndpointSpec
    given: Mapping[str, Any]
    tags: Mapping[str, Any]
    location: str
    identity: ComputeIdentity | None
    oid: str
    keys: Keys
    now: int
    uid: str

    def write(self, tx: Tx) -> tuple[Resource, bool]:
        old = tx.get(endpoint_key(self.scope, self.spec.name))
        if old is None:
            return self._insert(tx), True
        if old.state == Provisioning.DELETING:
            raise being_deleted(old)
        self._check_identity(old)
        row = replace(
            old,
            spec=self._spec(check_shares(tx, old, self._with_held(old))),
            tags=encode(dict(self.tags)),
            modified_at=self.now,
        )
        if (row.spec, row.tags) == (old.spec, old.tags):
            return old, False
        tx.add_event(event(row, self.now, "Updated", f"Updated by {self.by}{_changes(old, row)}.", self.by))
        return tx.update(row), False

    def _insert(self, tx: Tx) -> Resource:
        """Like Azure, with an identity of its own unless the body says otherwise."""
        require_workspace(tx, self.scope)
        traffic = check_traffic(self.spec.traffic, self.spec.mirror, ())
        key = endpoint_key(self.scope, self.spec.name)
        settled = identities.settle(
            tx,
            key,
            self.identity or ComputeIdentity(system=True),
            oid=self.oid,
            tenant=self.s.settings.tenant,
            now=self.now,
            by=self.by,
        )
        row = Resource(
            uid=self.uid,
            key=key,
            state=Provisioning.SUCCEEDED,
            spec=self._spec(traffic),
            status=encode(endpoint_keys.kept(self.s, self.uid, self.keys, EndpointStatus(identity=settled))),
            tags=encode(dict(self.tags)),
            location=self.location,
            created_at=self.now,
            modified_at=self.now,
            created_by=self.by,
        )
        tx.add_event(event(row, self.now, "Created", f"Created by {self.by}.", self.by))
        return tx.insert(row)

    def _with_held(self, old: Resource) -> EndpointSpec:
        """A body that says nothing of traffic leaves it as it is; an empty object takes it away."""
        shares = self.spec.traffic if "traffic" in self.given else tuple(traffic_of(old).items())
        mirror = self.spec.mirror if "mirrorTraffic" in self.given else tuple(mirror_of(old).items())
        return replace(self.spec, traffic=shares, mirror=mirror)

    def _spec(self, traffic: Traffic) -> bytes:
        return encode(
            {
                **self.given,
                "authMode": self.spec.auth_mode,
                "traffic": dict(traffic.shares),
                "mirrorTraffic": dict(traffic.mirror),
                "publicNetworkAccess": "Enabled" if self.spec.public else "Disabled",
            }
        )

    def _check_identity(self, old: Resource) -> None:
        """As in Azure, an endpoint keeps the identity that it was made with. Raises Conflict."""
        held = endpoint_status(old).identity or {}
        if self.identity is None:
            return
        assigned = set(assigned_in(held))
        wanted = {who.oid for who in self.identity.assigned}
        if bool(held.get("principalId")) != self.identity.system or assigned != wanted:
            raise Conflict(
                f"Endpoint {old.key.name!r} has the identity {held.get('type') or 'None'}, which it keeps as "
                "long as it is there. Make another endpoint for another identity.",
                "EndpointIdentityImmutable",
                "identity",
            )


def check_shares(read: Read, endpoint: Resource, spec: EndpointSpec) -> Traffic:
    """The traffic that is asked for, under the names of the endpoint's deployments. New shares go only
    to what can answer. Raises InvalidRequest, Conflict."""
    rows = {row.key.name: row for row in deployments_of(read, endpoint)}
    traffic = check_traffic(spec.traffic, spec.mirror, list(rows))
    held = traffic_of(endpoint)
    for name, percent in (*traffic.shares, *traffic.mirror):
        row = rows[name]
        if percent <= held.get(name, 0) or serves(row):
            continue
        raise Conflict(
            f"Deployment {name!r} is {row.state} and serves nothing yet, so it can have no traffic. "
            f"See: tidemill endpoint why --name {endpoint.key.name} --deployment-name {name}",
            "DeploymentNotReady",
            "properties.traffic",
        )
    return traffic


def serves(deployment: Resource) -> bool:
    """It has, or had, instances that answer: also while it is updated, or when that failed."""
    if deployment.state == Provisioning.DELETING:
        return False
    return deployment.state == Provisioning.SUCCEEDED or deployment_status(deployment).serving_generation > 0


def _changes(old: Resource, new: Resource) -> str:
    """`: traffic blue 90, green 10`."""
    was, now = decode_object(old.spec), decode_object(new.spec)
    said: list[str] = []
    for part, word in (("traffic", "traffic"), ("mirrorTraffic", "mirrored traffic")):
        if was.get(part) != now[part]:
            shares = join_words((f"{name} {share}" for name, share in now[part].items()), most=10)
            said.append(f"{word} {shares or 'none'}")
    if was.get("authMode") != now["authMode"]:
        said.append(f"auth mode {now['authMode']}")
    return f": {'; '.join(said)}" if said else ""


async def get(s: Services, scope: Scope, name: str) -> Resource:
    """Raises NotFound naming the endpoints that exist."""
    return await s.store.read(lambda read: find_endpoint(read, scope, name))


async def list_of(
    s: Services,
    scope: Scope,
    *,
    limit: int = 0,
    after: str | None = None,
    granted: Granted | None = None,
) -> Sequence[Resource]:
    """Oldest first. `granted`: only those with a role of their own (`access.Part`)."""
    query = ResourceQuery(ENDPOINTS, scope, ascending=True, limit=limit, after=after, granted=granted)
    return await s.store.read(lambda read: read.find(query))


async def keys(s: Services, scope: Scope, name: str) -> Keys:
    """Raises NotFound, InvalidRequest for an endpoint whose callers sign in in another way."""
    row = await get(s, scope, name)
    mode = decode_object(row.spec)["authMode"]
    if mode != KEY:
        raise InvalidRequest(
            f"Endpoint {row.key.name!r} has auth mode {mode}, so it has no keys. "
            "Use a token, or set auth_mode: key.",
            "EndpointHasNoKeys",
            row.key.name,
        )
    return endpoint_keys.keys_of(s, row)


@dataclass(frozen=True, slots=True)
class EndpointToken:
    """Times in seconds since the epoch."""

    token: str = field(repr=False)
    expires_at: int
    refresh_at: int


async def token(s: Services, caller: Caller, scope: Scope, name: str) -> EndpointToken:
    """Opens this endpoint alone, for an hour. Raises NotFound, InvalidRequest for another auth mode."""
    row = await get(s, scope, name)
    mode = decode_object(row.spec)["authMode"]
    if mode != AML_TOKEN:
        instead = "keys" if mode == KEY else "tokens of Microsoft Entra: its callers use their own"
        raise InvalidRequest(
            f"Endpoint {row.key.name!r} has auth mode {mode}, so it is opened by {instead}. "
            "For tokens of its own set auth_mode: aml_token.",
            "EndpointHasNoTokens",
            row.key.name,
        )
    given, expires = s.tokens.issue_for_endpoint(row.uid, caller.acts_as or caller.oid, caller.name)
    return EndpointToken(given, expires, expires - ENDPOINT_TTL_S // 2)


async def regenerate_key(
    s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]
) -> Resource:
    """`{keyType, keyValue?}`. The old key is worth nothing from the commit on. The value that the key
    has already counts as none given: it is what the SDK sends. Raises NotFound, InvalidRequest."""
    kinds = {PRIMARY: PRIMARY, SECONDARY: SECONDARY}
    kind = choice(body.get("keyType"), kinds, PRIMARY, "keyType")
    given = body.get("keyValue")
    wanted = endpoint_keys.check_key(given, "keyValue") if given else ""
    fresh, now = endpoint_keys.new_key(), s.clock.now()

    def change(tx: Tx) -> Resource:
        row = find_endpoint(tx, scope, name)
        if row.state == Provisioning.DELETING:
            raise being_deleted(row)
        held = endpoint_keys.keys_of(s, row)
        key = wanted if wanted and wanted not in (held.primary, held.secondary) else fresh
        keys = replace(held, **{kind: key})
        status = endpoint_keys.kept(s, row.uid, keys, endpoint_status(row))
        tx.add_event(event(row, now, "KeyRegenerated", f"New {kind} key, by {caller.name}.", caller.name))
        return tx.update(replace(row, status=encode(status), modified_at=now))

    changed = await s.store.write(change)
    await _routed(s)
    return changed


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> Resource | None:
    """With its deployments, whatever traffic they have, as in Azure -> the row as it then is; None where
    there was none. It is Deleting until the last deployment's instances have ended."""
    now = s.clock.now()

    def change(tx: Tx) -> Resource | None:
        row = tx.get(endpoint_key(scope, name))
        if row is None or row.state == Provisioning.DELETING:
            return row
        message = f"Being deleted by {caller.name}."
        tx.add_event(event(row, now, Provisioning.DELETING, message, caller.name))
        row = tx.update(replace(row, state=Provisioning.DELETING, modified_at=now))
        for deployment in deployments_of(tx, row):
            online_deployments.begin_deletion(tx, deployment, now, caller.name)
        left = tx.get(row.key)  # it may have gone with a deployment that had no instances
        if left is not None:
            online_deployments.finish_endpoint(tx, left, now)
        return row

    return await s.store.write(change)
