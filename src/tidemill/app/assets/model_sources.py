"""Where a model's files are: MLflow's and Azure's addresses of them, one for the other.

`models/{name}:{version}/model` is where MLflow's clients read the files of a registered model, below
`mlflow-artifacts:/` or, with `azureml-mlflow`, `azureml://artifacts/`: it leads to wherever the model is.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import unquote, urlsplit

from tidemill.app.assets.locations import Storage, locate
from tidemill.app.assets.storage import ARTIFACT_STORE, account_for
from tidemill.app.rows.asset_rows import MODELS, find_version
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.domain.errors import InvalidRequest, NotFound
from tidemill.domain.model import Scope
from tidemill.domain.plan import Place
from tidemill.store.api import Read

MODEL_FOLDER = "models"
MLMODEL = "MLmodel"
FILES = "model"

_AZURE_RUN = re.compile(r"azureml://.*/experiments/[^/]+/runs/(?P<run>[^/]+)/artifacts/(?P<path>.+)")
_AZURE_ARTIFACTS = "azureml://artifacts/"
_REGISTERED = re.compile(r"models:/+(?P<name>[^/@]+)(?:/(?P<version>[^/]+)|@(?P<alias>[^/]+))")
_LOGGED = re.compile(r"models:/+(?P<id>m-[0-9a-f]+)")
_FOLDER = re.compile(rf"{MODEL_FOLDER}/(?P<name>[^/:]+):(?P<version>[^/]+)(?:/{FILES}(?:/(?P<path>.+))?)?")


def files_of(name: str, version: str) -> str:
    """Where MLflow's clients read the files of a model version."""
    return f"mlflow-artifacts:/{MODEL_FOLDER}/{name}:{version}/{FILES}"


def named_in(path: str) -> str:
    """The registered model that an artifact path is about; "" where it is about none."""
    found = _FOLDER.fullmatch(path)
    return found["name"] if found else ""


async def place_of(s: Services, scope: Scope, path: str) -> Place | None:
    """Where the bytes of `models/{name}:{version}/model/…` lie; None where `path` is none of these. Raises
    NotFound, or InvalidRequest for a model that is not in this workspace's storage."""
    found = _FOLDER.fullmatch(path)
    if found is None:
        return None

    def look(read: Read) -> Place | None:
        storage = Storage(scope, account_for(read, scope), s.addresses.data_netloc)
        row = find_version(read, scope, MODELS, found["name"], found["version"])
        return locate(read, storage, str(decode_object(row.spec)["modelUri"]), MODELS).place

    place = await s.store.read(look)
    if place is None:
        raise InvalidRequest(
            f"Model {found['name']}:{found['version']} lies outside of this workspace's storage: read it "
            "from its own address.",
            target=path,
        )
    rest = found["path"] or ""
    return Place(place.account, place.container, f"{place.path.rstrip('/')}/{rest}".rstrip("/"))


async def asset_address(s: Services, scope: Scope, source: str) -> str:
    """The address of `source` (what MLflow's clients register) as assets keep it. Raises NotFound for a
    version, alias or logged model that is not there. Others are given back as they are."""
    if logged := _LOGGED.fullmatch(source):
        model = await s.tracking.get_logged_model(scope.arm_id, logged["id"])
        return _in_artifacts(_path(model.artifact_uri))
    if named := _REGISTERED.fullmatch(source):
        version, label = named["version"] or "", named["alias"] or ""
        if version.casefold() == "latest":
            version, label = "", "latest"
        return await _address_of_version(s, scope, unquote(named["name"]), version, label)
    if source.startswith("runs:/"):
        run, _, path = source.removeprefix("runs:/").strip("/").partition("/")
        return _in_artifacts(f"ExperimentRun/dcid.{run}/{path}")
    if source.startswith("mlflow-artifacts:/"):
        path = _path(source)
        registered = _FOLDER.fullmatch(path)
        if registered is not None:
            return await _address_of_version(s, scope, registered["name"], registered["version"], "")
        return _in_artifacts(path)
    if run_path := _AZURE_RUN.fullmatch(source):
        return _in_artifacts(f"ExperimentRun/dcid.{run_path['run']}/{run_path['path']}")
    if source.startswith(_AZURE_ARTIFACTS):
        return await asset_address(s, scope, f"mlflow-artifacts:/{source.removeprefix(_AZURE_ARTIFACTS)}")
    return source


async def _address_of_version(s: Services, scope: Scope, name: str, version: str, label: str) -> str:
    row = await s.store.read(lambda read: find_version(read, scope, MODELS, name, version, label))
    return str(decode_object(row.spec)["modelUri"])


async def read_mlmodel(s: Services, scope: Scope, address: str) -> bytes | None:
    """The file `MLmodel` of the folder at `address`; None where there is none in this workspace's storage."""

    def look(read: Read) -> Place | None:
        storage = Storage(scope, account_for(read, scope), s.addresses.data_netloc)
        return locate(read, storage, address, MODELS).place

    try:
        place = await s.store.read(look)
    except (InvalidRequest, NotFound):
        return None
    if place is None:
        return None
    name = f"{place.path.rstrip('/')}/{MLMODEL}".lstrip("/")
    return await asyncio.to_thread(s.blobs.read_bytes, place.account, place.container, name)


def _path(uri: str) -> str:
    return unquote(urlsplit(uri).path).strip("/")


def _in_artifacts(path: str) -> str:
    return f"azureml://datastores/{ARTIFACT_STORE}/paths/{path}"
