"""Models that deployments name, resolved: which asset one is, where its files lie, what it says it needs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tidemill.app.assets.locations import Storage, locate
from tidemill.app.assets.model_flavors import MLFLOW_MODEL, read_flavors
from tidemill.app.assets.model_sources import MLMODEL
from tidemill.app.rows.asset_rows import MODELS, find_version
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.registry_rows import need_registry, scope_of_row
from tidemill.app.services import Services
from tidemill.data.uris import AssetId, AssetName, RegistryUri, parse_uri
from tidemill.domain.errors import InvalidRequest, NotFound
from tidemill.domain.model import Resource, Scope
from tidemill.domain.serving.plan import PlannedModel
from tidemill.store.api import Read

MODEL = "properties.model"
CONDA = ("conda.yaml", "conda.yml")
_MAX_FILE = 1024 * 1024  # of a model's MLmodel and conda file


def find_model(s: Services, read: Read, scope: Scope, account: str, given: str) -> PlannedModel:
    uri = parse_uri(given, s.addresses.data_netloc)
    row: Resource | None = None
    if isinstance(uri, RegistryUri):
        there = scope_of_row(need_registry(read, scope.subscription, uri.registry))
        row = find_version(read, there, MODELS, uri.name, uri.version, uri.label)
    elif isinstance(uri, AssetName | AssetId):
        row = find_version(read, scope, MODELS, uri.name, uri.version, uri.label)
    place = locate(read, Storage(scope, account, s.addresses.data_netloc), given, MODELS).place
    if place is None:
        raise InvalidRequest(
            f"Model {given!r} lies outside of this server's storage, so no instance can read it. Register it "
            "from a folder or a datastore.",
            target=MODEL,
        )
    if row is None:
        return PlannedModel(given, "custom_model", place)
    kind = str(decode_object(row.spec).get("modelType") or "custom_model")
    return PlannedModel(given, kind, place, row.key.parent, row.key.name)


def with_files(s: Services, model: PlannedModel) -> PlannedModel:
    """A folder's place ends in a slash; MLflow's models have flavors. Raises NotFound, InvalidRequest."""
    place = model.place
    path = place.path.rstrip("/")
    if s.blobs.container(place.account, place.container) is None:
        raise _missing(model)
    if path and s.blobs.get(place.account, place.container, path) is not None:
        if model.type == MLFLOW_MODEL:
            raise InvalidRequest(
                f"Model {model.given!r} is an mlflow_model, but {path} is one file, not a folder with an "
                "MLmodel. Register the folder, or register it as custom_model.",
                target=MODEL,
            )
        return replace(model, place=replace(place, path=path))
    folder = f"{path}/" if path else ""
    if not s.blobs.list(place.account, place.container, folder, limit=1).blobs:
        raise _missing(model)
    found = replace(model, place=replace(place, path=folder))
    if model.type != MLFLOW_MODEL:
        return found
    flavors = read_flavors(_read(s, found, MLMODEL) or b"")
    if not flavors:
        raise InvalidRequest(
            f"Model {model.given!r} is an mlflow_model, but its folder has no file {MLMODEL} that names "
            "flavors. Log it with mlflow, or register it as custom_model and give a scoring script.",
            target=MODEL,
        )
    return replace(found, flavors=tuple(flavors))


def _missing(model: PlannedModel) -> NotFound:
    where = f"{model.place.container}/{model.place.path}"
    return NotFound(f"Model {model.given!r}: nothing is stored at {where}.", "ModelNotFound", MODEL)


async def brought_by(
    s: Services, what: str, model: PlannedModel | None, target: str
) -> tuple[PlannedModel, str]:
    """-> the MLflow model, and the conda file that says what it needs. `what` has no environment of its own,
    for sentences; `target`: the property that could name one. Raises InvalidRequest."""
    if model is None or model.type != MLFLOW_MODEL:
        raise InvalidRequest(
            f"{what} has no environment: only an mlflow_model brings its own. Give one, "
            "for example azureml:NAME:VERSION.",
            target=target,
        )
    conda = await asyncio.to_thread(_conda_of, s, model)
    if conda is None:
        raise InvalidRequest(
            f"Model {model.given!r} has no {CONDA[0]} that says what it needs: give an environment.",
            target=target,
        )
    return model, conda


def _conda_of(s: Services, model: PlannedModel) -> str | None:
    for name in CONDA:
        raw = _read(s, model, name)
        if raw is not None:
            try:
                return raw.decode()
            except UnicodeDecodeError as error:
                raise InvalidRequest(
                    f"{name} of model {model.given!r} is no UTF-8 text.", target=MODEL
                ) from error
    return None


def _read(s: Services, model: PlannedModel, name: str) -> bytes | None:
    """A file of a model's folder; None where there is none, or it is no small text."""
    place = model.place
    blob = s.blobs.get(place.account, place.container, place.path + name)
    if blob is None or blob.size > _MAX_FILE:
        return None
    return s.blobs.read_bytes(place.account, place.container, place.path + name)
