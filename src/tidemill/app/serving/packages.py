"""Packages of models: asked for, found, ended, removed. What makes them is `controllers/packages.py`.

A package that succeeded is an environment version besides, whose image is `package://NAME:VERSION`: that
deploys it, here, as any image with a server of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tidemill.app.assets import assets, package_usage
from tidemill.app.assets.planned_models import find_model, with_files
from tidemill.app.assets.registries import check_usable
from tidemill.app.assets.storage import account_for
from tidemill.app.errors import at
from tidemill.app.jobs.job_planning import code_place
from tidemill.app.people.access import authorise
from tidemill.app.rows.asset_rows import ENVIRONMENTS, container_key, version_key
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.package_rows import (
    LAYERS,
    PACKAGES,
    container_of,
    event,
    find_package,
    label,
    package_key,
    package_status,
)
from tidemill.app.services import Services
from tidemill.app.serving.deployment_planning import environment_for
from tidemill.data.uris import AssetId, AssetName, parse_uri
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, NotOffered
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, Key, Resource, Scope
from tidemill.domain.plan import JobError, Place
from tidemill.domain.serving.packaging import (
    CREATING,
    FAILED,
    OCI,
    SUCCEEDED,
    PackagePlan,
    PackageSpec,
    PackageStatus,
    read_package,
)
from tidemill.domain.serving.plan import PlannedModel
from tidemill.environments.images.reference import PACKAGE
from tidemill.packaging.assembling import PORT
from tidemill.store.api import Read, ResourceQuery, Tx

ACTION = f"{PROVIDER}/workspaces/packages/versions"
_ENVIRONMENT = "baseEnvironmentSource.resourceId"


async def begin(
    s: Services, caller: Caller, scope: Scope, model: str, version: str, body: Mapping[str, Any]
) -> Resource:
    """Resolves all that a package is made of -> its row, Creating. Raises NotFound, InvalidRequest,
    NotOffered, Conflict or AccessDenied; nothing is written then."""
    spec = read_package(model, version, body)
    await check_usable(s, caller, [spec.code_id, spec.environment_id])
    await _check_rights(s, caller, scope, model, version, spec)
    found, code, account = await s.store.read(lambda read: _look(s, read, scope, spec))
    planned_model = await asyncio.to_thread(with_files, s, found)
    what = f"The package of model {model}:{version}"
    environment = await environment_for(s, scope, what, spec.environment_id, planned_model, _ENVIRONMENT)
    if environment.container is not None:
        raise NotOffered(
            f"Environment {environment.label} has an image with a server of its own (inference_config): "
            "deploy that, or package with an environment of packages.",
            _ENVIRONMENT,
        )
    if environment.in_image and spec.format != OCI:
        raise NotOffered(
            f"Environment {environment.label} is built in an image, of which wheels are only a part: "
            "package it with --format oci.",
            "format",
        )
    _check_serves(planned_model, spec)
    if code is not None:
        await asyncio.to_thread(_check_script, s, code, spec.script)
    plan = PackagePlan(spec, planned_model, environment, code, account)
    now, uid = s.clock.now(), s.ids.uid()
    return await s.store.write(lambda tx: _insert(tx, scope, plan, uid, now, caller.name))


async def _check_rights(
    s: Services, caller: Caller, scope: Scope, model: str, version: str, spec: PackageSpec
) -> None:
    """To read what goes into it, and to make the environment that it becomes. Raises AccessDenied."""
    above = f"{PROVIDER}/workspaces"
    await authorise(s, caller, f"{above}/models/versions/read", scope, f"models/{model}/versions/{version}")
    for given, kind in ((spec.environment_id, "environments"), (spec.code_id, "codes")):
        uri = parse_uri(given) if given else None
        if isinstance(uri, AssetName | AssetId):
            below = f"{kind}/{uri.name}" + (f"/versions/{uri.version}" if uri.version else "")
            await authorise(s, caller, f"{above}/{kind}/versions/read", scope, below)
    below = f"environments/{spec.name}"
    await authorise(s, caller, f"{above}/environments/versions/write", scope, below)


def _look(s: Services, read: Read, scope: Scope, spec: PackageSpec) -> tuple[PlannedModel, Place | None, str]:
    account = account_for(read, scope)
    with at("inferencingServer.codeConfiguration.codeId"):
        code = code_place(s, read, scope, spec.code_id, account)
    with at("model"):
        return find_model(s, read, scope, account, spec.model), code, account


def _check_serves(model: PlannedModel, spec: PackageSpec) -> None:
    if model.type == "triton_model" and not spec.script:
        raise NotOffered(
            f"Model {model.given!r} is a triton_model, which the scoring server does not run: give code and "
            "a scoring script.",
            "model",
        )


def _check_script(s: Services, code: Place, script: str) -> None:
    path = f"{code.path.rstrip('/')}/{script}" if code.path else script
    if s.blobs.get(code.account, code.container, path) is None:
        raise InvalidRequest(
            f"The code has no file {script!r}: give the scoring script's path below the code's folder.",
            target="inferencingServer.codeConfiguration.scoringScript",
        )


def _insert(tx: Tx, scope: Scope, plan: PackagePlan, uid: str, now: int, by: str) -> Resource:
    spec = plan.spec
    version = spec.version or _next_version(tx, scope, spec.name)
    taken = tx.get(version_key(scope, ENVIRONMENTS, spec.name, version))
    old = tx.get(package_key(scope, spec.name, version))
    if taken is not None or (old is not None and old.state != FAILED):
        kind = "Environment" if taken is not None else "Package"
        raise Conflict(
            f"{kind} {spec.name}:{version} exists. Versions cannot be changed: give another one, or none for "
            "the next.",
            "VersionImmutable",
            "targetEnvironmentId",
        )
    if old is not None:
        tx.delete(old)
    plan = replace(plan, spec=replace(spec, version=version))
    row = Resource(
        uid,
        package_key(scope, spec.name, version),
        CREATING,
        status=encode(PackageStatus(plan)),
        tags=encode(dict(spec.tags)),
        created_at=now,
        modified_at=now,
        created_by=by,
    )
    source = f"model {plan.model.name}:{plan.model.version} with environment {plan.environment.label}"
    tx.add_event(event(row, now, "Created", f"Asked for by {by}: {source}.", by))
    return tx.insert(row)


def _next_version(read: Read, scope: Scope, name: str) -> str:
    """One more than any that exists, packages that are still being made included."""
    following = int(assets.next_version(read, scope, ENVIRONMENTS, name))
    made = read.find(ResourceQuery(PACKAGES, scope, parent=name))
    return str(max([following, *(int(row.key.name) + 1 for row in made if row.key.name.isdigit())]))


# what becomes of it


def succeed(tx: Tx, row: Resource, status: PackageStatus, uids: tuple[str, str], now: int) -> None:
    """Its end, in one commit with the environment that it is. `uids`: of that and of its name."""
    scope, spec = row.key.scope, status.plan.spec
    if spec.format == OCI:
        taken = tx.get(version_key(scope, ENVIRONMENTS, spec.name, spec.version))
        if taken is not None:
            raise Conflict(f"Environment {spec.name}:{spec.version} was made meanwhile.", "VersionImmutable")
        assets.insert_version(
            tx,
            ENVIRONMENTS,
            scope,
            spec.name,
            spec.version,
            environment_of(status),
            uids,
            now,
            row.created_by,
        )
    tx.update(replace(row, state=SUCCEEDED, status=encode(status), modified_at=now))


def environment_of(status: PackageStatus) -> dict[str, Any]:
    """ARM's properties of the environment version."""
    plan = status.plan
    route = {"port": PORT, "path": "/"}
    return {
        "image": f"{PACKAGE}://{plan.spec.name}:{plan.spec.version}",
        "inferenceConfig": {
            "livenessRoute": route,
            "readinessRoute": route,
            "scoringRoute": {"port": PORT, "path": "/score"},
        },
        "description": f"Package of model {plan.model.name}:{plan.model.version}, "
        f"with environment {plan.environment.label}.",
        "osType": "Linux",
        "tags": dict(plan.spec.tags),
        "properties": {"tidemill.package": status.digest},
        "isAnonymous": False,
        "isArchived": False,
    }


def fail(tx: Tx, row: Resource, problem: JobError, now: int) -> None:
    status = replace(package_status(row), error=problem)
    tx.update(replace(row, state=FAILED, status=encode(status), modified_at=now))
    tx.add_event(event(row, now, FAILED, problem.message))


# looked at


async def get(s: Services, scope: Scope, name: str, version: str) -> Resource:
    """Raises NotFound naming those that exist."""
    return await s.store.read(lambda read: find_package(read, scope, name, version))


async def list_of(s: Services, scope: Scope) -> Sequence[Resource]:
    """Newest first."""
    return await s.store.read(lambda read: read.find(ResourceQuery(PACKAGES, scope)))


async def place(s: Services, scope: Scope, name: str, version: str) -> Place:
    """Of its files. Raises NotFound, or Conflict for one that is not there yet."""
    row = await get(s, scope, name, version)
    if row.state != SUCCEEDED:
        error = package_status(row).error
        why = f": {error.message}" if error else ". Wait for it."
        raise Conflict(f"Package {label(row)} is {row.state}{why}", "PackageNotReady", label(row))
    status = package_status(row)
    return Place(status.plan.account, status.container, "")


async def delete(s: Services, caller: Caller, scope: Scope, name: str, version: str) -> bool:
    """With the environment version that it is. -> False where there is none. Raises Conflict naming who uses
    it."""
    row = await s.store.read(lambda read: read.get(package_key(scope, name, version)))
    if row is None:
        return False
    environment = version_key(scope, ENVIRONMENTS, name, version)
    if await s.store.read(lambda read: _is_its_own(read, environment, row)):
        with suppress(NotFound):
            await assets.delete_version(s, caller, scope, ENVIRONMENTS, name, version)
    now = s.clock.now()

    def change(tx: Tx) -> None:
        there = tx.by_uid(row.uid)
        if there is not None:
            if there.state == SUCCEEDED:
                package_usage.refuse_if_used(tx, scope, name, version)
            tx.delete(there)
            tx.add_event(event(there, now, "Deleted", f"Deleted by {caller.name}.", caller.name))

    await s.store.write(change)
    await asyncio.to_thread(remove_files, s, row)
    await _forget_layers(s, scope, package_status(row).plan.account)
    return True


async def _forget_layers(s: Services, scope: Scope, account: str) -> None:
    """Those that no package has any more. Not while one is being made, which may be about to have them."""
    rows = await list_of(s, scope)
    if any(row.state == CREATING for row in rows):
        return
    used = {layer.digest.removeprefix("sha256:") for row in rows for layer in package_status(row).layers}

    def forget() -> None:
        with suppress(NotFound):
            for blob in s.blobs.list(account, LAYERS, "sha256/").blobs:
                if blob.name.removeprefix("sha256/") not in used:
                    s.blobs.delete(account, LAYERS, blob.name)

    await asyncio.to_thread(forget)


def remove_files(s: Services, row: Resource) -> None:
    """Blocks."""
    with suppress(NotFound):
        s.blobs.delete_container(package_status(row).plan.account, container_of(row))


def _is_its_own(read: Read, key: Key, row: Resource) -> bool:
    found = read.get(key)
    if found is None or read.get(container_key(key.scope, ENVIRONMENTS, key.parent)) is None:
        return False
    return decode_object(found.spec).get("image") == f"{PACKAGE}://{label(row)}"
