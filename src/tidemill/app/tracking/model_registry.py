"""MLflow's model registry over model assets, which are the only truth: a registered model is the container of
a name, a model version its version. What MLflow has besides lies with them: aliases in the container's
`status`, a version's stage in its property `stage`, its run in `jobName` and `properties`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.assets import assets
from tidemill.app.assets.asset_rules import complete
from tidemill.app.assets.locations import Storage
from tidemill.app.assets.model_flavors import MLFLOW_MODEL, with_flavors
from tidemill.app.assets.model_sources import asset_address, files_of, read_mlmodel
from tidemill.app.assets.storage import account_for
from tidemill.app.rows.asset_rows import (
    MODELS,
    aliases_of,
    container_key,
    find_container,
    find_version,
)
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.services import Services
from tidemill.app.tracking.tracking import check_key
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.ids import check_name
from tidemill.domain.model import Caller, Event, Resource, Scope
from tidemill.store.api import AlreadyExists, Read, ResourceQuery, Tx

STAGES = ("None", "Staging", "Production", "Archived")
NO_STAGE = "None"
RUN_ID, RUN_LINK, MODEL_ID = "mlflow.runId", "mlflow.runLink", "mlflow.modelId"  # in `properties`
_MAX_TAG = 5000
_EXISTS = "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Times in microseconds. `files`: where MLflow's clients read it."""

    name: str
    version: str
    created_at: int
    updated_at: int
    user: str
    description: str
    stage: str
    source: str
    files: str
    run_id: str
    run_link: str
    model_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """`latest`: the newest version of each stage."""

    name: str
    created_at: int
    updated_at: int
    user: str
    description: str
    tags: dict[str, str]
    aliases: dict[str, str]
    latest: tuple[ModelVersion, ...]


async def create_model(
    s: Services, caller: Caller, scope: Scope, name: str, description: str, tags: Mapping[str, str]
) -> RegisteredModel:
    """A name without versions. Raises Conflict, or InvalidRequest for a name that assets cannot have."""
    check_name(name, MODELS.label)
    _check_tags(tags)
    given = {"description": description or None, "tags": dict(tags)}
    now, uid = s.clock.now(), s.ids.uid()

    def change(tx: Tx) -> RegisteredModel:
        if tx.get(container_key(scope, MODELS, name)) is not None:
            raise Conflict(f"Model {name!r} exists already.", _EXISTS, name)
        return _model(tx, assets.insert_container(tx, MODELS, scope, name, given, uid, now, caller.name))

    try:
        return await s.store.write(change)
    except AlreadyExists:
        raise Conflict(f"Model {name!r} exists already.", _EXISTS, name) from None


async def get_model(s: Services, scope: Scope, name: str) -> RegisteredModel:
    return await s.store.read(lambda read: _model(read, find_container(read, scope, MODELS, name)))


async def update_model(
    s: Services, scope: Scope, name: str, change: Callable[[dict[str, Any]], None]
) -> None:
    """`change` alters the properties of the container."""
    now = s.clock.now()

    def write(tx: Tx) -> None:
        row = find_container(tx, scope, MODELS, name)
        assets.save(tx, row, _changed(row, change), now)

    await s.store.write(write)


async def delete_model(s: Services, caller: Caller, scope: Scope, name: str) -> None:
    await s.store.read(lambda read: find_container(read, scope, MODELS, name))
    await assets.delete_container(s, caller, scope, MODELS, name)


async def set_alias(s: Services, scope: Scope, name: str, alias: str, version: str) -> None:
    """Raises InvalidRequest for an alias that could be taken for a version or a label."""
    check_name(alias, "Alias")
    if alias.casefold() in ("latest", "default") or alias.lower().removeprefix("v").isdigit():
        raise InvalidRequest(
            f"Alias {alias!r} is a label or looks like a version. Give it another name.", target="alias"
        )

    def put(tx: Tx) -> dict[str, str]:
        held = find_version(tx, scope, MODELS, name, version)
        return {**aliases_of(find_container(tx, scope, MODELS, name)), alias: held.key.name}

    await _set_aliases(s, scope, name, put)


async def delete_alias(s: Services, scope: Scope, name: str, alias: str) -> None:
    def remove(tx: Tx) -> dict[str, str]:
        held = aliases_of(find_container(tx, scope, MODELS, name))
        return {known: version for known, version in held.items() if known != alias}

    await _set_aliases(s, scope, name, remove)


async def _set_aliases(s: Services, scope: Scope, name: str, change: Callable[[Tx], dict[str, str]]) -> None:
    now = s.clock.now()

    def write(tx: Tx) -> None:
        aliases = change(tx)
        row = find_container(tx, scope, MODELS, name)
        status = encode({**decode_object(row.status), "aliases": aliases})
        tx.update(replace(row, status=status, modified_at=now))

    await s.store.write(write)


async def create_version(
    s: Services,
    caller: Caller,
    scope: Scope,
    name: str,
    source: str,
    *,
    description: str = "",
    tags: Mapping[str, str] | None = None,
    run_id: str = "",
    run_link: str = "",
    model_id: str = "",
) -> ModelVersion:
    """The next version of a name that exists. With a file MLmodel at its source it is an `mlflow_model`."""
    _check_tags(tags or {})
    if not source:
        raise InvalidRequest("A model version needs a 'source': where its files are.", target="source")
    address = await asset_address(s, scope, source)
    mlmodel = await read_mlmodel(s, scope, address)
    if model_id and not run_id:
        run_id = (await s.tracking.get_logged_model(scope.arm_id, model_id)).run_id
    more = {RUN_ID: run_id, RUN_LINK: run_link, MODEL_ID: model_id}
    given = {
        "modelType": "custom_model" if mlmodel is None else MLFLOW_MODEL,
        "modelUri": address,
        "description": description or None,
        "tags": dict(tags or {}),
        "properties": {key: value for key, value in more.items() if value},
    }
    now, uids = s.clock.now(), (s.ids.uid(), s.ids.uid())

    def change(tx: Tx) -> Resource:
        find_container(tx, scope, MODELS, name)
        storage = Storage(scope, account_for(tx, scope), s.addresses.data_netloc)
        wanted = complete(tx, storage, MODELS, name, given, s.addresses.data)
        if run_id:
            wanted["jobName"] = run_id
        version = assets.next_version(tx, scope, MODELS, name)
        return assets.insert_version(tx, MODELS, scope, name, version, wanted, uids, now, caller.name)

    row = await with_flavors(s, await s.store.write(change))
    return await get_version(s, scope, name, row.key.name)


async def get_version(s: Services, scope: Scope, name: str, version: str, alias: str = "") -> ModelVersion:
    """By version, else by alias. Raises NotFound with those that exist."""

    def look(read: Read) -> ModelVersion:
        row = find_version(read, scope, MODELS, name, version, alias)
        return _version(row, aliases_of(find_container(read, scope, MODELS, name)))

    return await s.store.read(look)


async def update_version(
    s: Services, scope: Scope, name: str, version: str, change: Callable[[dict[str, Any]], None]
) -> ModelVersion:
    """`change` alters the properties of the version."""
    now = s.clock.now()

    def write(tx: Tx) -> None:
        row = find_version(tx, scope, MODELS, name, version)
        assets.save(tx, row, _changed(row, change), now)

    await s.store.write(write)
    return await get_version(s, scope, name, version)


async def transition(
    s: Services, caller: Caller, scope: Scope, name: str, version: str, stage: str, archive_others: bool
) -> ModelVersion:
    """Moves a version to a stage; with `archive_others` those that are in it are archived."""
    wanted = stage_of(stage)
    if archive_others and wanted not in ("Staging", "Production"):
        raise InvalidRequest(
            f"Versions in stage {wanted!r} are not archived by a transition: only those in Staging or "
            "Production make room. Leave archive_existing_versions out.",
            target="archive_existing_versions",
        )
    now = s.clock.now()

    def move(tx: Tx, row: Resource, to: str) -> None:
        properties = {**decode_object(row.spec), "stage": to}
        if assets.save(tx, row, properties, now) is row:
            return
        message = f"Model {name}:{row.key.name} moved to stage {to}."
        tx.add_event(Event(row.uid, "asset", now, "StageChanged", message, caller.name))

    def write(tx: Tx) -> None:
        target = find_version(tx, scope, MODELS, name, version)
        for row in tx.find(ResourceQuery(MODELS.versions, scope, parent=name)) if archive_others else ():
            if row.uid != target.uid and decode_object(row.spec).get("stage") == wanted:
                move(tx, row, "Archived")
        move(tx, target, wanted)

    await s.store.write(write)
    return await get_version(s, scope, name, version)


async def delete_version(s: Services, caller: Caller, scope: Scope, name: str, version: str) -> None:
    await s.store.read(lambda read: find_version(read, scope, MODELS, name, version))
    await assets.delete_version(s, caller, scope, MODELS, name, version)


async def models(s: Services, scope: Scope) -> list[RegisteredModel]:
    """All that are not archived, in the order of their names."""

    def look(read: Read) -> list[RegisteredModel]:
        rows = read.find(ResourceQuery(MODELS.type, scope, ref=assets.LISTED, archived=False))
        return [_model(read, row) for row in sorted(rows, key=lambda row: row.key.name)]

    return await s.store.read(look)


async def versions(s: Services, scope: Scope, name: str | None = None) -> list[ModelVersion]:
    """Of a name, or of all; newest first. Archived ones are left out."""

    def look(read: Read) -> list[ModelVersion]:
        held = read.find(ResourceQuery(MODELS.type, scope))
        aliases = {row.key.name: aliases_of(row) for row in held if name in (None, row.key.name)}
        query = ResourceQuery(MODELS.versions, scope, parent=name, archived=False)
        return [_version(row, aliases.get(row.key.parent, {})) for row in read.find(query)]

    return await s.store.read(look)


def latest_of(held: Sequence[ModelVersion], stages: Sequence[str]) -> tuple[ModelVersion, ...]:
    """The newest version (they come newest first) of each stage, or of those asked for."""
    wanted = {stage_of(stage) for stage in stages}
    first: dict[str, ModelVersion] = {}
    for version in held:
        if not wanted or version.stage in wanted:
            first.setdefault(version.stage, version)
    return tuple(first.values())


def stage_of(text: str) -> str:
    """As MLflow spells it. Raises InvalidRequest naming the stages."""
    found = next((stage for stage in STAGES if stage.casefold() == text.casefold()), None)
    if found is None:
        raise InvalidRequest(
            f"Stage {text!r} does not exist. It is one of {', '.join(STAGES)}.", target="stage"
        )
    return found


def set_tag(properties: dict[str, Any], key: str, value: str) -> None:
    _check_tags({key: value})
    properties["tags"] = {**(properties.get("tags") or {}), key: value}


def delete_tag(properties: dict[str, Any], key: str) -> None:
    """Raises NotFound where there is no such tag."""
    tags = dict(properties.get("tags") or {})
    if key not in tags:
        raise NotFound(f"There is no tag {key!r}. There are: {', '.join(tags) or 'none'}.", target=key)
    del tags[key]
    properties["tags"] = tags


def _changed(row: Resource, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    properties = decode_object(row.spec)
    change(properties)
    return properties


def _model(read: Read, row: Resource) -> RegisteredModel:
    spec, aliases = decode_object(row.spec), aliases_of(row)
    query = ResourceQuery(MODELS.versions, row.key.scope, parent=row.key.name, archived=False)
    held = [_version(version, aliases) for version in read.find(query)]
    return RegisteredModel(
        row.key.name,
        row.created_at,
        row.modified_at,
        row.created_by,
        str(spec.get("description") or ""),
        _texts(spec.get("tags")),
        aliases,
        latest_of(held, ()),
    )


def _version(row: Resource, aliases: Mapping[str, str]) -> ModelVersion:
    spec, version, name = decode_object(row.spec), row.key.name, row.key.parent
    more = _texts(spec.get("properties"))
    return ModelVersion(
        name,
        version,
        row.created_at,
        row.modified_at,
        row.created_by,
        str(spec.get("description") or ""),
        str(spec.get("stage") or NO_STAGE),
        str(spec.get("modelUri") or ""),
        files_of(name, version),
        more.get(RUN_ID) or str(spec.get("jobName") or ""),
        more.get(RUN_LINK, ""),
        more.get(MODEL_ID, ""),
        _texts(spec.get("tags")),
        tuple(sorted(alias for alias, held in aliases.items() if held == version)),
    )


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(key): str(value) for key, value in (values or {}).items()}


def _check_tags(tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        check_key("Tag", key)
        if len(value) > _MAX_TAG:
            raise InvalidRequest(
                f"Tag {key!r} has {len(value)} characters; it may have {_MAX_TAG}.", target=key
            )
