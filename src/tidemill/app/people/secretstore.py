"""The secrets of a workspace: named values, every version kept, sealed at rest.

Rows: Key(ws, "secrets", name) with spec {"contentType", "tags", "enabled", "current"} (`current`: the newest
version), and Key(ws, "secrets/versions", version, parent=name), whose `status` keeps the sealed value. A
value leaves through `value_of` only: into a job's environment, or to who may read it (Key Vault's protocol).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tidemill.app.errors import absent
from tidemill.app.people.access import JOB, decide
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.sealed import seal, unseal
from tidemill.app.services import Services
from tidemill.domain.activity import Outcome, Record
from tidemill.domain.errors import Forbidden, InvalidRequest, OutOfSpace
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, Event, Key, Resource, Scope
from tidemill.domain.plan import JobPlan
from tidemill.domain.principals import PrincipalKind
from tidemill.domain.secretrefs import NAME, SecretRef, references
from tidemill.sandbox.bwrap import apart
from tidemill.store.api import Read, ResourceQuery, Tx

TYPE = "secrets"
VERSIONS = "secrets/versions"
ACTION = f"{PROVIDER}/workspaces/secrets"
GET_ACTION = f"{ACTION}/getSecret/action"
MAX_BYTES = 25_600  # Key Vault's
_NAME = re.compile(NAME + r"\Z")
_VERSION = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class Secret:
    """One version of a secret, without its value. Times in microseconds."""

    name: str
    version: str
    enabled: bool
    content_type: str
    tags: Mapping[str, str]
    created_at: int
    created_by: str
    newest: bool


@dataclass(frozen=True, slots=True)
class Value:
    secret: Secret
    text: str = field(repr=False)


async def put(
    s: Services,
    caller: Caller,
    scope: Scope,
    name: str,
    value: str,
    *,
    content_type: str = "",
    tags: Mapping[str, str] | None = None,
) -> Secret:
    """Makes a version, the newest from now on; older ones stay. Raises InvalidRequest."""
    _check(name, value)
    now, uid, version = s.clock.now(), s.ids.uid(), s.ids.uid()
    spec = {"contentType": content_type, "tags": dict(tags or {}), "enabled": True}
    sealed_version = Resource(
        uid=version,
        key=Key(scope, VERSIONS, version, name),
        state="Succeeded",
        spec=encode(spec),
        created_at=now,
        modified_at=now,
        created_by=caller.name,
    )

    def change(tx: Tx) -> Secret:
        existing = tx.get(Key(scope, TYPE, name))
        head = encode({**spec, "current": version})
        if existing is None:
            row = replace(sealed_version, uid=uid, key=Key(scope, TYPE, name), spec=head)
            tx.insert(row)
        else:
            row = tx.update(replace(existing, spec=head, modified_at=now))
        made = tx.insert(
            replace(
                sealed_version,
                key=Key(scope, VERSIONS, version, row.key.name),
                status=seal(s, version, {"value": value}),
            )
        )
        tx.add_event(Event(row.uid, "secret", now, "Set", f"Secret {name} has a new version.", caller.name))
        return _secret(made, version)

    return await s.store.write(change)


async def list_of(s: Services, scope: Scope, *, limit: int = 0, after: str | None = None) -> Sequence[Secret]:
    """The newest version of each, in the order they were first set. `after`: the name before."""

    def read(r: Read) -> Sequence[Secret]:
        before = r.get(Key(scope, TYPE, after)) if after else None
        query = ResourceQuery(
            TYPE, scope, ascending=True, limit=limit, after=None if before is None else before.uid
        )
        return [_newest(r, row) for row in r.find(query)]

    return await s.store.read(read)


async def versions_of(s: Services, scope: Scope, name: str) -> Sequence[Secret]:
    """Newest first. Raises NotFound naming the secrets that exist."""

    def read(r: Read) -> Sequence[Secret]:
        row = _find(r, scope, name)
        current = decode_object(row.spec)["current"]
        return [_secret(v, current) for v in r.find(ResourceQuery(VERSIONS, scope, parent=row.key.name))]

    return await s.store.read(read)


async def enable(s: Services, caller: Caller, scope: Scope, name: str, version: str, enabled: bool) -> Secret:
    """A disabled version is kept and given to nobody. Raises NotFound."""
    now = s.clock.now()

    def change(tx: Tx) -> Secret:
        row, current = _version(tx, scope, SecretRef(name, version))
        spec = encode({**decode_object(row.spec), "enabled": enabled})
        word = "enabled" if enabled else "disabled"
        message = f"A version of secret {name} is {word}."
        tx.add_event(Event(row.uid, "secret", now, word.title(), message, caller.name))
        return _secret(tx.update(replace(row, spec=spec, modified_at=now)), current)

    return await s.store.write(change)


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> Secret:
    """Removes the secret with all its versions, for good. -> the newest. Raises NotFound."""
    now = s.clock.now()

    def change(tx: Tx) -> Secret:
        row = _find(tx, scope, name)
        newest = _newest(tx, row)
        for version in tx.find(ResourceQuery(VERSIONS, scope, parent=row.key.name)):
            tx.delete(version)
        tx.delete(row)
        tx.add_event(Event(row.uid, "secret", now, "Deleted", f"Secret {name} deleted.", caller.name))
        return newest

    return await s.store.write(change)


async def value_of(s: Services, scope: Scope, ref: SecretRef) -> Value:
    """Raises NotFound, and Forbidden for a version that is disabled."""
    row, current = await s.store.read(lambda r: _version(r, scope, ref))
    secret = _secret(row, current)
    if not secret.enabled:
        raise Forbidden(
            f"Version {secret.version} of secret {secret.name!r} is disabled.", "SecretDisabled", secret.name
        )
    return Value(secret, str(unseal(s, row)["value"]))


async def check_usable(
    s: Services, caller: Caller, scope: Scope, variables: Sequence[tuple[str, str]]
) -> None:
    """Before a job is taken: every secret that its variables name is there, who submits it may read it, and
    nobody else will see it. Raises InvalidRequest, NotFound or Forbidden."""
    for name, text in variables:
        if references([(name, text)]) and apart({name: text})[1]:
            raise InvalidRequest(
                f"Environment variable {name!r} is one that the loader or the C library obeys. A sandbox "
                "sets it on a command line, which every process sees, so it holds no secret. Rename it.",
                target=f"properties.environmentVariables.{name}",
            )
    for ref in references(variables):
        await _authorise(s, caller, scope, ref)
        await s.store.read(lambda r, wanted=ref: _version(r, scope, wanted))


async def for_job(
    s: Services,
    job: Resource,
    plan: JobPlan,
    texts: Sequence[tuple[str, str]] | None = None,
    what: str = "the environment",
) -> dict[SecretRef, str]:
    """The values for a job that is about to start, or of other `texts` of its definition. Who submitted it
    must still be allowed to read them, and each look is on disk in the activity log before this returns.
    Raises NotFound, Forbidden or OutOfSpace."""
    refs = references(plan.job.environment_variables if texts is None else texts)
    scope, values = job.key.scope, dict[SecretRef, str]()
    submitter = Caller(plan.user or plan.team, job.created_by, PrincipalKind.USER.value)
    for ref in refs:
        where = f"{scope.arm_id}/{TYPE}/{ref.name}"
        look = Record(
            at=s.clock.now(),
            action=GET_ACTION,
            outcome=Outcome.SUCCEEDED,
            actor=job.uid,
            actor_name=job.key.name,
            actor_kind="job",
            scope=scope.arm_id,
            resource=where,
            reason=f"Into {what} of job {job.key.name}, submitted by {submitter.name}.",
        )
        try:
            assignment = await _authorise(s, submitter, scope, ref)
            value = await value_of(s, scope, ref)
        except Forbidden as error:
            s.activity.record(replace(look, outcome=Outcome.REFUSED, code=error.code))
            raise
        s.activity.record(
            replace(look, resource=f"{where}/versions/{value.secret.version}", assignment=assignment)
        )
        values[ref] = value.text
    if values and not await s.activity.flush():
        raise OutOfSpace("The activity log cannot be written, so no secret is given to a job. Make space.")
    return values


async def _authorise(s: Services, caller: Caller, scope: Scope, ref: SecretRef) -> str:
    """-> the id of the role assignment that allows it."""
    principal = (await s.access.current()).principal(caller.oid)
    if caller.kind != JOB and (principal is None or principal.disabled):
        raise Forbidden(
            f"{caller.name}, who submitted the job, is not a principal here any more, so it gets no secrets.",
            target=f"secrets/{ref.name}",
        )
    decision = await decide(s, caller, GET_ACTION, scope, f"{TYPE}/{ref.name}")
    if not decision.allowed:
        raise Forbidden(
            f"{caller.name} may not read secret {ref.name!r}, which the job's environment variables name. "
            f"{decision.reason}",
            target=f"secrets/{ref.name}",
        )
    return "" if decision.assignment is None else decision.assignment.id


def _check(name: str, value: str) -> None:
    if not _NAME.match(name):
        raise InvalidRequest(
            f"Secret name {name[:140]!r} is not valid: use 1 to 127 letters, digits, '-' or '_', "
            "starting with a letter or digit.",
            "InvalidName",
            "name",
        )
    if not value or "\0" in value or len(value.encode()) > MAX_BYTES:
        why = "is empty" if not value else "has a NUL in it" if "\0" in value else "is too long"
        raise InvalidRequest(
            f"The value of secret {name!r} {why}: it is 1 to {MAX_BYTES} bytes of text without NUL.",
            target="value",
        )


def _find(read: Read, scope: Scope, name: str) -> Resource:
    row = read.get(Key(scope, TYPE, name))
    if row is None:
        names = [found.key.name for found in read.find(ResourceQuery(TYPE, scope))]
        raise absent(
            "Secret",
            name,
            names,
            f"workspace {scope.workspace!r}",
            f"Set it with: tidemill secret set {name}",
        )
    return row


def _version(read: Read, scope: Scope, ref: SecretRef) -> tuple[Resource, str]:
    """-> (the version's row, the id of the newest)."""
    row = _find(read, scope, ref.name)
    current = str(decode_object(row.spec)["current"])
    wanted = ref.version or current
    version = read.get(Key(scope, VERSIONS, wanted, row.key.name)) if _VERSION.match(wanted) else None
    if version is None:
        known = [v.key.name for v in read.find(ResourceQuery(VERSIONS, scope, parent=row.key.name))]
        raise absent("Version", ref.version, known, f"secret {ref.name!r}")
    return version, current


def _newest(read: Read, row: Resource) -> Secret:
    return _secret(*_version(read, row.key.scope, SecretRef(row.key.name)))


def _secret(row: Resource, current: str) -> Secret:
    spec: dict[str, Any] = decode_object(row.spec)
    return Secret(
        name=row.key.parent,
        version=row.key.name,
        enabled=bool(spec["enabled"]),
        content_type=str(spec["contentType"]),
        tags=spec["tags"],
        created_at=row.created_at,
        created_by=row.created_by,
        newest=row.key.name == current,
    )
