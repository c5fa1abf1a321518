"""Who uses an asset: jobs that have not ended, schedules, online and batch deployments, components, models
that were made from it, and container groups that run a package of it.

Whatever a definition names counts, directly or through components. Components that only a hash names
(anonymous ones) are told by who uses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tidemill.app.assets import package_usage
from tidemill.app.rows import batch_rows
from tidemill.app.rows.asset_rows import (
    ANONYMOUS_COMPONENT,
    COMPONENTS,
    DATA,
    ENVIRONMENTS,
    KINDS,
    MODELS,
    AssetKind,
    newest_version,
)
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.endpoint_rows import DEPLOYMENTS
from tidemill.data.uris import AssetId, AssetName, RegistryUri, parse_uri
from tidemill.domain.component_names import KIND_OF_KEY, TYPE_KEYS
from tidemill.domain.components import maybe
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.jobspec import MODEL_TYPES
from tidemill.domain.model import JobState, Key, Resource, Scope
from tidemill.domain.units import join_words, plural
from tidemill.store.api import Read, ResourceQuery

_UNENDED = tuple(state.value for state in JobState if not state.final)
_KIND_OF_KEY = {key: KINDS[kind] for key, kind in KIND_OF_KEY.items()}


@dataclass(frozen=True, slots=True)
class Reference:
    """One mention of an asset, by version or by label. `scope` None: in the workspace of who mentions it."""

    kind: AssetKind
    name: str
    version: str = ""
    label: str = ""
    scope: Scope | None = None
    registry: str = ""


def references(spec: Any) -> Iterator[Reference]:
    """Every asset that a definition (ARM's properties, a component's spec) names."""
    return _walk(spec, DATA)


def refuse_if_used(read: Read, scope: Scope, kind: AssetKind, name: str, version: str = "") -> None:
    """Of a version, or of a name with all its versions. Raises Conflict naming who uses it."""
    users = users_of(read, scope, kind, name, version)
    if users:
        raise Conflict(
            f"{_what(kind, name, version)} is in use by {join_words(users, most=10)}. Archive it instead, or "
            "delete it once nothing uses it.",
            "AssetInUse",
            f"{name}:{version}" if version else name,
        )


def archived_note(read: Read, row: Resource, kind: AssetKind) -> str:
    """What whoever archived this version, or this name, should know; "" where nothing uses it."""
    name, version = (row.key.parent, row.key.name) if row.key.parent else (row.key.name, "")
    users = users_of(read, row.key.scope, kind, name, version)
    if not users:
        return ""
    return (
        f"{_what(kind, name, version)} is archived and still in use by {join_words(users, most=10)}: "
        "they go on to work with it."
    )


def users_of(read: Read, scope: Scope, kind: AssetKind, name: str, version: str = "") -> list[str]:
    """In words: `job 'train' (Running)`. Of a registry's asset, what is in workspaces is counted: who may
    write the registry need not be one who may see them."""
    asked = _Asked(read, scope)
    asked.add(kind, name, version)
    if scope.registry:
        return _of_registry(read, scope, asked)
    found = _components(read, scope, asked)
    for row in read.find(ResourceQuery("jobs", scope, states=_UNENDED)):
        if asked.named_in(decode_object(row.spec)):
            found.append(f"job {row.key.name!r} ({row.state})")
    for row in read.find(ResourceQuery("schedules", scope)):
        if asked.named_in(decode_object(row.spec)):
            found.append(f"schedule {row.key.name!r} ({row.state})")
    found += _deployments(read.find(ResourceQuery(DEPLOYMENTS, scope)), asked)
    found += _batch_deployments(read.find(ResourceQuery(batch_rows.DEPLOYMENTS, scope)), asked)
    if kind is ENVIRONMENTS:
        found += package_usage.users(read, scope, name, version)
    return [*found, *_made_from(read, scope, kind, asked)]


class _Asked:
    """The asset that is asked about, and the components through which it is used."""

    def __init__(self, read: Read, scope: Scope) -> None:
        self._read, self._scope = read, scope
        self._versions: dict[tuple[str, str], set[str]] = {}  # (kind, name) -> versions, "" for any
        self._newest: dict[tuple[str, str], str] = {}

    def add(self, kind: AssetKind, name: str, version: str) -> bool:
        """-> whether it is new."""
        held = self._versions.setdefault((kind.type, name.casefold()), set())
        before = len(held)
        held.add(version.casefold())
        return len(held) > before

    def named_in(self, spec: Any) -> bool:
        return any(self._is(one) for one in references(spec))

    def _is(self, one: Reference) -> bool:
        versions = self._versions.get((one.kind.type, one.name.casefold()))
        elsewhere = one.scope is not None and not _same(one.scope, self._scope)
        if versions is None or elsewhere or one.registry.casefold() != self._scope.registry.casefold():
            return False
        return "" in versions or (one.version or self._labelled(one)).casefold() in versions

    def _labelled(self, one: Reference) -> str:
        """The version that a label means now."""
        key = (one.kind.type, one.name.casefold())
        if key not in self._newest:
            row = newest_version(self._read, self._scope, one.kind, one.name)
            self._newest[key] = row.key.name if row is not None else ""
        return self._newest[key]


def _components(read: Read, scope: Scope, asked: _Asked) -> list[str]:
    """Components that use what is asked about. They are added to it, because who uses them uses it."""
    left = [(row, decode_object(row.spec)) for row in read.find(ResourceQuery(COMPONENTS.versions, scope))]
    found: list[str] = []
    while True:
        users = [row for row, spec in left if asked.named_in(spec)]
        if not users:
            return found
        for row in users:
            asked.add(COMPONENTS, row.key.parent, row.key.name)
            if row.key.parent != ANONYMOUS_COMPONENT:
                found.append(f"component '{row.key.parent}:{row.key.name}'")
        used = {row.uid for row in users}
        left = [(row, spec) for row, spec in left if row.uid not in used]


def _deployments(rows: Sequence[Resource], asked: _Asked) -> list[str]:
    found: list[str] = []
    for row in rows:
        spec = decode_object(row.spec)
        model = {"type": MODEL_TYPES[0], "uri": str(spec.get("model") or "")}
        if asked.named_in({**spec, "model": model}):
            found.append(f"deployment '{row.key.parent}/{row.key.name}' ({row.state})")
    return found


def _batch_deployments(rows: Sequence[Resource], asked: _Asked) -> list[str]:
    """By what was resolved when they were put, too: a label may mean another version now."""
    found: list[str] = []
    for row in rows:
        spec, status = decode_object(row.spec), batch_rows.status_of(row)
        component = maybe(maybe(spec.get("deploymentConfiguration")).get("componentId"))
        named = {
            "environmentId": spec.get("environmentId") or status.environment,
            "codeConfiguration": spec.get("codeConfiguration"),
            "componentId": component.get("assetId"),
            "model": {"type": MODEL_TYPES[0], "uri": status.model},
        }
        if asked.named_in(named):
            found.append(f"batch deployment '{row.key.parent}/{row.key.name}'")
    return found


def _of_registry(read: Read, scope: Scope, asked: _Asked) -> list[str]:
    found = _components(read, scope, asked)
    for type_, states, word in (
        ("jobs", _UNENDED, "jobs that have not ended"),
        ("schedules", None, "schedules"),
        (COMPONENTS.versions, None, "components of workspaces"),
    ):
        rows = read.find(ResourceQuery(type_, states=states))
        using = [
            row for row in rows if not row.key.scope.registry and asked.named_in(decode_object(row.spec))
        ]
        if using:
            found.append(f"{len(using)} {word}")
    for users, word in (
        (_deployments(read.find(ResourceQuery(DEPLOYMENTS)), asked), "online deployment"),
        (_batch_deployments(read.find(ResourceQuery(batch_rows.DEPLOYMENTS)), asked), "batch deployment"),
    ):
        found += [plural(len(users), word)] if users else []
    return found


def _made_from(read: Read, scope: Scope, kind: AssetKind, asked: _Asked) -> list[str]:
    """Models that a job made which read this data or this model: their lineage would lead nowhere."""
    if kind not in (DATA, MODELS):
        return []
    made: dict[str, list[Resource]] = {}
    for row in read.find(ResourceQuery(MODELS.versions, scope)):
        job = decode_object(row.spec).get("jobName")
        if job:
            made.setdefault(str(job), []).append(row)
    found: list[str] = []
    for job, models in made.items():
        row = read.get(Key(scope, "jobs", job))
        if row is not None and asked.named_in(decode_object(row.spec).get("inputs")):
            found += [f"model '{m.key.parent}:{m.key.name}' (made from it by job {job!r})" for m in models]
    return found


def _walk(value: Any, kind: AssetKind) -> Iterator[Reference]:
    if isinstance(value, str):
        one = _reference(value, kind)
        if one is not None:
            yield one
    elif isinstance(value, Mapping):
        items = cast(Mapping[str, Any], value)
        said = next((str(items[key]) for key in TYPE_KEYS if key in items), "")
        inside = MODELS if said in MODEL_TYPES else DATA
        for key, item in items.items():
            yield from _walk(item, _KIND_OF_KEY.get(key, inside))
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _walk(item, kind)


def _reference(text: str, kind: AssetKind) -> Reference | None:
    if not text.startswith(("azureml:", "/subscriptions/")):
        return None
    try:
        uri = parse_uri(text)
    except InvalidRequest:
        return None
    if isinstance(uri, AssetName):
        return Reference(kind, uri.name, uri.version, uri.label)
    if isinstance(uri, RegistryUri) and uri.kind.lower() in KINDS:
        held = KINDS[uri.kind.lower()]
        return Reference(held, uri.name, uri.version, uri.label, registry=uri.registry)
    if isinstance(uri, AssetId) and uri.kind.lower() in KINDS:
        return Reference(KINDS[uri.kind.lower()], uri.name, uri.version, uri.label, uri.scope)
    return None


def _same(one: Scope, other: Scope) -> bool:
    return one.arm_id.casefold() == other.arm_id.casefold()


def _what(kind: AssetKind, name: str, version: str) -> str:
    return f"{kind.label} {name!r} version {version!r}" if version else f"{kind.label} {name!r}"
