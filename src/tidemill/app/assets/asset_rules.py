"""What an asset version may be: its body completed as Azure does, and what may change of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.app.assets.locations import Storage, locate
from tidemill.app.computes.compute_rules import object_at
from tidemill.app.rows.asset_rows import CODES, COMPONENTS, DATA, ENVIRONMENTS, MODELS, AssetKind
from tidemill.data.bloburls import blob_url
from tidemill.data.staging import FOLDER_TYPES
from tidemill.data.uris import BlobUrl, JobOutputUri, LocalPath, OtherUrl, RegistryUri, WebUrl, parse_uri
from tidemill.domain.components import maybe, read_component
from tidemill.domain.errors import Conflict, InvalidRequest, NotOffered
from tidemill.domain.jobspec import MODEL_TYPES
from tidemill.environments.images.reference import PACKAGE
from tidemill.store.api import Read

DATA_TYPES = ("uri_file", "uri_folder", "mltable")
MUTABLE = ("description", "tags", "isArchived", "stage")
COMPUTED = ("provisioningState", "environmentType", "jobName")  # a body that carries them means the same


def complete(
    read: Read, storage: Storage, kind: AssetKind, name: str, properties: Mapping[str, Any], endpoint: str
) -> dict[str, Any]:
    """The properties to store. `endpoint`: our data process's address. Raises InvalidRequest, or what
    `locate` raises for an azureml:// address that leads nowhere."""
    stored = {key: value for key, value in properties.items() if key not in COMPUTED}
    stored["isArchived"] = bool(stored.get("isArchived"))
    stored["isAnonymous"] = bool(stored.get("isAnonymous"))
    for field in ("tags", "properties"):
        stored[field] = dict(object_at(stored, field, f"properties.{field}"))
    if kind is CODES:
        _need(kind, name, stored, "codeUri")
    elif kind is ENVIRONMENTS:
        _complete_environment(storage, name, stored, endpoint)
    elif kind is DATA:
        _complete_data(read, storage, name, stored, endpoint)
    elif kind is MODELS:
        _complete_model(read, storage, name, stored, endpoint)
    elif kind is COMPONENTS:
        _complete_component(name, stored)
    return stored


def refuse_change(
    kind: AssetKind, name: str, version: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """A version is what it was made as. Raises Conflict naming the property that differs."""
    free = (*MUTABLE, *kind.fixed, "isAnonymous", "provisioningState")
    # What makes the version must be given again as it is; of the rest, only what is given must agree.
    rest = [field for field in wanted if field not in free and not _nothing(wanted[field])]
    for field in (*kind.fixed, *rest):
        old, new = stored.get(field), wanted.get(field)
        if kind is COMPONENTS and field == "componentSpec":
            old, new = (_compared(spec, bool(stored.get("isAnonymous"))) for spec in (old, new))
        if old != new and not (_nothing(old) and _nothing(new)):
            was, now = _told_apart(repr(old), repr(new))
            raise Conflict(
                f"{kind.label} {name!r} version {version!r} exists with another {field}: "
                f"it is {was}, not {now}. "
                f"Versions cannot be changed (only {', '.join(MUTABLE)}): use another version.",
                "VersionImmutable",
                f"properties.{field}",
            )


def updated(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The stored properties with what may change taken from the body as given."""
    changes = {field: given[field] for field in MUTABLE if field in given}
    if "isArchived" in changes:
        changes["isArchived"] = bool(changes["isArchived"])
    if "tags" in changes:
        changes["tags"] = changes["tags"] or {}
    return {**stored, **changes}


def _complete_environment(storage: Storage, name: str, stored: dict[str, Any], endpoint: str) -> None:
    if not any(stored.get(field) for field in ENVIRONMENTS.fixed):
        raise InvalidRequest(
            f"Environment {name!r} is empty: give a conda file, an image or a build context.",
            target="properties",
        )
    image = str(stored.get("image") or "")
    if storage.scope.registry and image.startswith(f"{PACKAGE}://"):
        raise InvalidRequest(
            f"Environment {name!r} runs in {image}, which a workspace has, and a registry's environments run "
            "in any. Bring the package to a registry of images, and name it there.",
            "InvalidImage",
            "properties.image",
        )
    build = object_at(stored, "build", "properties.build")
    if not build.get("contextUri"):
        return
    # The SDK drops the account from the address of an uploaded build context.
    context = parse_uri(str(build["contextUri"]), storage.data_netloc)
    if isinstance(context, BlobUrl):
        account = context.account or storage.account
        address = blob_url(endpoint, account, context.container, context.path)
        stored["build"] = {**build, "contextUri": address}


def _complete_data(read: Read, storage: Storage, name: str, stored: dict[str, Any], endpoint: str) -> None:
    kind = str(stored.get("dataType") or "uri_folder")
    if kind not in DATA_TYPES:
        raise InvalidRequest(
            f"dataType {kind!r} of data asset {name!r} is not known. Use one of {', '.join(DATA_TYPES)}.",
            target="properties.dataType",
        )
    address = _address(read, storage, DATA, name, _need(DATA, name, stored, "dataUri"), stored, endpoint)
    if kind in FOLDER_TYPES and not address.endswith("/"):
        address += "/"
    stored |= {"dataType": kind, "dataUri": address}


def _complete_model(read: Read, storage: Storage, name: str, stored: dict[str, Any], endpoint: str) -> None:
    kind = str(stored.get("modelType") or "custom_model")
    if kind not in MODEL_TYPES:
        raise InvalidRequest(
            f"modelType {kind!r} of model {name!r} is not known. Use one of {', '.join(MODEL_TYPES)}.",
            target="properties.modelType",
        )
    address = _address(read, storage, MODELS, name, _need(MODELS, name, stored, "modelUri"), stored, endpoint)
    # The SDK reads `flavors` without looking whether it is there.
    stored |= {"modelType": kind, "modelUri": address, "flavors": stored.get("flavors") or {}}


def _complete_component(name: str, stored: dict[str, Any]) -> None:
    """As it was given, once it can be read; without what the client adds for itself."""
    read_component(stored.get("componentSpec"), name)
    spec = {key: value for key, value in stored["componentSpec"].items() if value is not None}
    if spec.get("sourceJobId") and not spec.get("jobs"):
        raise NotOffered(
            f"Component {name!r} is to be made of job {spec['sourceJobId']!r} (source_job_id; "
            "job_definition of a batch deployment), which is not offered. Give the pipeline with its steps.",
            "properties.componentSpec.sourceJobId",
        )
    stored["componentSpec"] = spec


def _compared(spec: Any, anonymous: bool) -> dict[str, Any]:
    """A component without what does not make it another: where the client had it from, and, of one that is
    found by its hash, what it was called."""
    left_out = ("_source", "$schema", *(("name", "version") if anonymous else ()))
    return {key: value for key, value in maybe(spec).items() if key not in left_out and value is not None}


def _address(
    read: Read,
    storage: Storage,
    kind: AssetKind,
    name: str,
    given: str,
    stored: dict[str, Any],
    endpoint: str,
) -> str:
    """An address that stays right: jobs and short datastore paths in full, others as given."""
    uri = parse_uri(given, storage.data_netloc)
    if isinstance(uri, LocalPath):
        raise InvalidRequest(
            f"{kind.label} {name!r} points at {given!r}, a path on some machine. The CLI and the SDK upload "
            "local paths first; a REST call has to upload them itself.",
            "LocalPathNotAllowed",
            f"properties.{kind.located}",
        )
    if isinstance(uri, RegistryUri):  # who reads this asset need not be one who may read the registry
        raise InvalidRequest(
            f"{kind.label} {name!r} points at {given!r}. Jobs use a registry's assets by that address "
            "itself: give it as their input.",
            target=f"properties.{kind.located}",
        )
    if isinstance(uri, BlobUrl) and not uri.account:  # as a registry's models are shown
        return blob_url(endpoint, storage.account, uri.container, uri.path)
    if isinstance(uri, WebUrl | OtherUrl | BlobUrl):
        return given
    if isinstance(uri, JobOutputUri):
        stored["jobName"] = uri.job
    found = locate(read, storage, given, kind)
    return found.uri or found.url


def _need(kind: AssetKind, name: str, stored: Mapping[str, Any], field: str) -> str:
    value = stored.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{kind.label} {name!r} has no {field}.", target=f"properties.{field}")
    return value


def _nothing(value: Any) -> bool:
    return value is None or value in ("", {}, [])


def _told_apart(one: str, other: str, most: int = 120) -> tuple[str, str]:
    """Two texts, cut where they are long, but never where they differ first."""
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    start = max(same - most // 3, 0) if max(len(one), len(other)) > most else 0
    cut = [f"{'…' * bool(start)}{text[start:]}" for text in (one, other)]
    short = [text if len(text) <= most else f"{text[: most - 1]}…" for text in cut]
    return short[0], short[1]
