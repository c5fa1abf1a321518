"""Components as steps use them: found by whatever a step names, and read."""

from __future__ import annotations

from tidemill.app.errors import at
from tidemill.app.rows.asset_rows import COMPONENTS, find_version
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.registry_rows import need_registry, scope_of_row
from tidemill.data.uris import AssetId, AssetName, RegistryUri, parse_uri
from tidemill.domain.components import Component, read_component
from tidemill.domain.errors import InvalidRequest, TidemillError
from tidemill.domain.model import Resource, Scope
from tidemill.store.api import Read


def find_component(read: Read, scope: Scope, given: str, step: str = "") -> Component:
    """`given`: an ARM id, `azureml:name:version`, `azureml:name@latest`, `name:version`. `step`: for whom, in
    sentences. Raises NotFound naming what exists, InvalidRequest."""
    where = f"properties.jobs.{step}.componentId" if step else "properties.componentId"
    try:
        with at(where):
            return _find(read, scope, given)
    except TidemillError as error:
        if step:
            error.message = f"Step {step!r}: {error.message}"
        raise


def _find(read: Read, scope: Scope, given: str) -> Component:
    text = given if given.startswith(("azureml:", "/")) else f"azureml:{given}"
    uri = parse_uri(text)
    if isinstance(uri, RegistryUri) and uri.kind.lower() == COMPONENTS.type:
        registry = scope_of_row(need_registry(read, scope.subscription, uri.registry))
        return _read(find_version(read, registry, COMPONENTS, uri.name, uri.version, uri.label))
    if not isinstance(uri, AssetName | AssetId) or (
        isinstance(uri, AssetId) and uri.kind.lower() != COMPONENTS.type
    ):
        raise InvalidRequest(
            f"{given!r} is not a component. Use azureml:NAME:VERSION, azureml:NAME@latest or its ARM id."
        )
    if isinstance(uri, AssetId) and uri.scope is not None:
        same = uri.scope.arm_id.casefold() == scope.arm_id.casefold()
        if not same:
            raise InvalidRequest(
                f"Component {given!r} is in another workspace; a pipeline uses those of its own."
            )
    return _read(find_version(read, scope, COMPONENTS, uri.name, uri.version, uri.label))


def _read(row: Resource) -> Component:
    return read_component(decode_object(row.spec).get("componentSpec"), row.key.parent, row.key.name)
