"""What a job's environment is built from: a registered one, a curated one, the host's Python."""

from __future__ import annotations

import difflib
from dataclasses import replace

from tidemill.app.assets import dockerfiles, images, package_images
from tidemill.app.rows.asset_rows import ENVIRONMENTS, container_key, find_version, no_such_name
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.registry_rows import find_registry, scope_of_row
from tidemill.app.services import Services
from tidemill.catalog.curated import CuratedCatalog
from tidemill.data.uris import AssetId, AssetName, RegistryUri, parse_uri
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Resource, Scope
from tidemill.domain.plan import PlannedEnvironment
from tidemill.domain.serving.container import read_container
from tidemill.environments.spec import EnvironmentSpec, from_arm, from_curated
from tidemill.store.api import Read


async def plan_environment(s: Services, scope: Scope, given: str) -> PlannedEnvironment:
    """`given`: an ARM id, `azureml:name:version`, `azureml:name@latest`, a registry's URI, or "".

    Raises NotFound naming what exists, InvalidRequest for a spec that cannot be built."""
    if not given:
        return PlannedEnvironment()
    uri = parse_uri(given)
    if isinstance(uri, RegistryUri):
        shared = await s.store.read(lambda r: _shared(r, scope, uri))
        if shared is not None:
            return await planned(s, scope, given, spec_of_row(s, shared), shared.key.scope)
        return await planned(
            s, scope, given, from_curated(s.curated.require(given), images=s.settings.images)
        )
    if not isinstance(uri, AssetName | AssetId):
        raise InvalidRequest(
            f"Environment {given!r} is not an environment. Use azureml:NAME:VERSION, azureml:NAME@latest or "
            "azureml://registries/azureml/environments/NAME/versions/VERSION.",
            target="properties.environmentId",
        )
    row = await s.store.read(lambda r: _registered(r, scope, uri, s.curated))
    if row is None:
        return await planned(
            s, scope, given, from_curated(s.curated.require(uri.name), images=s.settings.images)
        )
    return _with_container(row, await planned(s, scope, given, spec_of_row(s, row)))


def _with_container(row: Resource, found: PlannedEnvironment) -> PlannedEnvironment:
    """With the routes of the server that its image brings, if it says so. Raises InvalidRequest."""
    raw = decode_object(row.spec).get("inferenceConfig")
    return replace(found, container=read_container(raw)) if raw else found


def _registered(
    read: Read, scope: Scope, uri: AssetName | AssetId, curated: CuratedCatalog
) -> Resource | None:
    """None: there is none of that name, but a curated one. Raises NotFound naming what exists, and what is
    curated and looks like it."""
    if read.get(container_key(scope, ENVIRONMENTS, uri.name)) is None:
        if curated.find(uri.name) is not None:
            return None
        offered = {known.azure_name.casefold(): known.azure_name for known in curated.list()}
        near = difflib.get_close_matches(uri.name.casefold(), offered, 3, 0.6)
        raise no_such_name(read, scope, ENVIRONMENTS, uri.name, [offered[name] for name in near])
    return find_version(read, scope, ENVIRONMENTS, uri.name, uri.version, uri.label)


def _shared(read: Read, scope: Scope, uri: RegistryUri) -> Resource | None:
    """The version in a registry of this subscription; None where there is no such registry."""
    registry = find_registry(read, scope.subscription, uri.registry)
    if registry is None or uri.kind.lower() != ENVIRONMENTS.type:
        return None
    return find_version(read, scope_of_row(registry), ENVIRONMENTS, uri.name, uri.version, uri.label)


def spec_of_row(s: Services, row: Resource) -> EnvironmentSpec:
    """Raises InvalidRequest for a conda file that cannot be read, NotOffered for a Docker build context where
    images are not used."""
    return from_arm(decode_object(row.spec), row.key.parent, row.key.name, s.curated, s.settings.images)


async def planned(
    s: Services, scope: Scope, given: str, spec: EnvironmentSpec, owner: Scope | None = None
) -> PlannedEnvironment:
    """`owner`: the registry that has it, None for the workspace itself. Raises InvalidRequest for a conda
    file, an image or a build context that cannot be read, or is not allowed."""
    label = f"{spec.name}:{_short(spec.version)}" if spec.name else given
    digest = s.environments.key(spec)
    found = PlannedEnvironment(
        label=label,
        digest=digest,
        conda=spec.conda,
        pip=spec.pip,
        image=spec.image,
        name=spec.name,
        version=spec.version,
        variables=tuple(spec.variables.items()),
        notes=spec.notes,
        in_image=spec.in_image,
        host_instead=spec.host_instead,
    )
    if spec.build is not None:
        return await dockerfiles.plan(s, scope, found, spec.build, owner or scope)
    if not spec.in_image:
        return found
    await package_images.check(s, scope, found.image or "")
    return images.plan_image(s, scope, found)


def _short(version: str) -> str:
    """Versions of anonymous environments are hashes of 64 digits: eight tell them apart for a reader."""
    return version[:8] if len(version) == 64 else version
