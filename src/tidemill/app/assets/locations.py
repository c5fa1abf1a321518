"""From any address of data to the bytes it means, within one workspace."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.app.assets.storage import ARTIFACT_STORE, datastore_container
from tidemill.app.errors import absent, instead
from tidemill.app.rows.asset_rows import DATA, MODELS, AssetKind, find_version
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.rows.registry_rows import need_registry, scope_of_row
from tidemill.app.workspaces.workspaces import account_of
from tidemill.data.uris import (
    AssetId,
    AssetName,
    BlobUrl,
    DatastoreUri,
    JobOutputUri,
    LocalPath,
    OtherUrl,
    RegistryUri,
    Uri,
    WebUrl,
    parse_uri,
    render_uri,
)
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, NotOffered
from tidemill.domain.model import JobState, Key, Scope
from tidemill.domain.plan import Place
from tidemill.store.api import Read, ResourceQuery

ARTIFACTS = ("artifacts", "default")  # outputs every job has: what it logged
_MAX_HOPS = 4  # an asset may point at a job's output, which may point at a datastore


@dataclass(frozen=True, slots=True)
class Location:
    """Bytes in our storage (`place` and `uri`, the full azureml:// form) or a web address (`url`)."""

    place: Place | None = None
    uri: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Storage:
    """What addresses are read against: the workspace, its account, and our data process's host:port."""

    scope: Scope
    account: str
    data_netloc: str


def locate(read: Read, storage: Storage, text: str, kind: AssetKind = DATA) -> Location:
    """`kind`: what `azureml:name:version` is about (DATA or MODELS).

    Raises NotFound naming what exists, NotOffered for storage elsewhere, InvalidRequest, or Conflict for an
    output of a job that has not ended.
    """
    return _locate(read, storage, text, kind, 0)


def _locate(read: Read, storage: Storage, text: str, kind: AssetKind, hops: int) -> Location:
    if hops > _MAX_HOPS:
        raise InvalidRequest(f"{text!r} leads in a circle.")
    uri = parse_uri(text, storage.data_netloc)
    match uri:
        case AssetName(name, version, label):
            return _asset(read, storage, kind, name, version, label, hops)
        case AssetId():
            asset_kind = _data_kind(uri, text)
            _same_workspace(storage, uri.scope, text)
            return _asset(read, storage, asset_kind, uri.name, uri.version, uri.label, hops)
        case DatastoreUri():
            _same_workspace(storage, uri.scope, text)
            return datastore_location(read, storage, uri.datastore, uri.path)
        case JobOutputUri():
            return _job_output(read, storage, uri)
        case BlobUrl(account, container, path):
            if account not in ("", storage.account):
                raise NotFound(
                    f"{text!r} is in storage account {account!r}, which is not that of "
                    f"{storage.scope.words} ({storage.account}).",
                    target=text,
                )
            return Location(Place(storage.account, container, path), text)
        case RegistryUri():
            return _in_registry(read, storage, uri, text, hops)
        case WebUrl(url):
            return Location(url=url)
        case _:
            raise _unreachable(uri, text)


def datastore_location(read: Read, storage: Storage, datastore: str, path: str) -> Location:
    container = datastore_container(read, storage.scope, storage.account, datastore)
    uri = render_uri(DatastoreUri(datastore, path, storage.scope))
    return Location(Place(container.account, container.name, path), uri)


def _asset(
    read: Read, storage: Storage, kind: AssetKind, name: str, version: str, label: str, hops: int
) -> Location:
    row = find_version(read, storage.scope, kind, name, version, label)
    where = decode_object(row.spec).get(kind.located)
    if not where:
        raise InvalidRequest(f"{kind.label} {name!r} version {row.key.name!r} has no {kind.located}.")
    return _locate(read, storage, str(where), kind, hops + 1)


def _in_registry(read: Read, storage: Storage, uri: RegistryUri, text: str, hops: int) -> Location:
    """A registry's assets lie in its own account. `uri` of what is found stays the registry's address."""
    row = need_registry(read, storage.scope.subscription, uri.registry)
    kind = _data_kind(AssetId(None, uri.kind, uri.name), text)
    there = Storage(scope_of_row(row), account_of(row), storage.data_netloc)
    found = _asset(read, there, kind, uri.name, uri.version, uri.label, hops)
    return found if found.place is None else Location(found.place, text)


def _job_output(read: Read, storage: Storage, uri: JobOutputUri) -> Location:
    row = read.get(Key(storage.scope, "jobs", uri.job))
    if row is None:
        names = [job.key.name for job in read.find(ResourceQuery("jobs", storage.scope, limit=200))]
        raise absent("Job", uri.job, names, storage.scope.words)
    plan = job_status(row.status).plan
    outputs = {output.name: output for output in plan.outputs}
    known = outputs.get(uri.output)
    if known is None and uri.output not in ARTIFACTS:
        raise NotFound(
            f"Job {uri.job!r} has no output {uri.output!r}. {instead(uri.output, [*outputs, 'artifacts'])}",
            target=uri.output,
        )
    if not JobState(row.state).final:
        raise Conflict(
            f"Job {uri.job!r} is {row.state}: its output {uri.output!r} is stored when it ends.",
            "JobNotFinal",
            uri.job,
        )
    if known is not None:
        return Location(_below(known.place, uri.path), _joined(known.uri, uri.path))
    artifacts = plan.artifacts or Place(storage.account, "azureml", f"ExperimentRun/dcid.{uri.job}/")
    return datastore_location(read, storage, ARTIFACT_STORE, artifacts.path + uri.path)


def _below(place: Place, path: str) -> Place:
    return Place(place.account, place.container, _joined(place.path, path))


def _joined(base: str, path: str) -> str:
    return f"{base.rstrip('/')}/{path}" if path else base


def _data_kind(uri: AssetId, text: str) -> AssetKind:
    kind = {known.type: known for known in (DATA, MODELS)}.get(uri.kind.lower())
    if kind is None:
        raise InvalidRequest(f"{text!r} is not data: it is the id of something in {uri.kind!r}.", target=text)
    return kind


def _same_workspace(storage: Storage, scope: Scope | None, text: str) -> None:
    if scope is not None and scope.arm_id.casefold() != storage.scope.arm_id.casefold():
        raise InvalidRequest(
            f"{text!r} is in another workspace ({scope.workspace!r}); what belongs to {storage.scope.words} "
            "reaches only its own. Copy the data there.",
            "CrossWorkspace",
            text,
        )


def _unreachable(uri: Uri, text: str) -> InvalidRequest | NotOffered:
    match uri:
        case OtherUrl(scheme, _):
            return NotOffered(
                f"{text!r}: {scheme}:// storage is not offered. Use azureml://datastores/…, "
                "an https address, or upload the data.",
                text,
            )
        case LocalPath(path):
            return InvalidRequest(
                f"{path!r} is a path on some machine, not an address. The CLI and the SDK upload local paths "
                "before they submit; a REST call has to upload them itself.",
                "LocalPathNotAllowed",
                text,
            )
        case _:
            return InvalidRequest(f"{text!r} is not an address of data.", target=text)
