"""Every way a user names data: parsed into frozen values, and rendered back.

azureml:name:version · azureml:name@label · azureml:name          AssetName
[azureml:]/subscriptions/…/data/n/versions/v, azureml://subscriptions/…/models/n/versions/v   AssetId
azureml://registries/R/environments/N/versions/V (or labels/L)    RegistryUri
azureml://datastores/D/paths/P, the same without `paths/`, azureml://subscriptions/…/datastores/D/paths/P
                                                                  DatastoreUri
azureml://jobs/J/outputs/O[/paths/P], runs:/J/P                   JobOutputUri
https://localhost:8445/{account}.blob…/{container}/{name}         BlobUrl
https://…, http://…                                               WebUrl
wasbs://…, abfss://…, s3://… and the like                         OtherUrl (refused by name later)
file:///…, ./…, /…                                                LocalPath
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from tidemill.data.bloburls import resolve_blob_url
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import parse_workspace_id
from tidemill.domain.model import Scope

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class AssetName:
    """Exactly one of `version` and `label` is set."""

    name: str
    version: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class AssetId:
    """`kind`: ARM's segment ("data", "models", "environments", …)."""

    scope: Scope | None  # None: this workspace
    kind: str
    name: str
    version: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class RegistryUri:
    registry: str
    kind: str
    name: str
    version: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class DatastoreUri:
    """`path` has no slash in front; a slash at its end is kept. `scope` None: this workspace."""

    datastore: str
    path: str
    scope: Scope | None = None


@dataclass(frozen=True, slots=True)
class JobOutputUri:
    job: str
    output: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class BlobUrl:
    """In our own storage. `account` "": the URL does not say (build contexts of environments)."""

    account: str
    container: str
    path: str


@dataclass(frozen=True, slots=True)
class WebUrl:
    url: str


@dataclass(frozen=True, slots=True)
class OtherUrl:
    scheme: str
    url: str


@dataclass(frozen=True, slots=True)
class LocalPath:
    path: str


Uri = (
    AssetName | AssetId | RegistryUri | DatastoreUri | JobOutputUri | BlobUrl | WebUrl | OtherUrl | LocalPath
)

_ASSET = re.compile(
    r"^(?P<kind>[A-Za-z]+)/(?P<name>[^/]+)/(?:versions/(?P<version>[^/]+)|labels/(?P<label>[^/]+))/?$"
)
_SCHEME = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]+)://")
_FORMS = (
    "azureml:name:version, azureml:name@latest, azureml://datastores/NAME/paths/PATH, "
    "azureml://jobs/JOB/outputs/OUTPUT, or an https address"
)


def parse_uri(text: str, data_netloc: str = "") -> Uri:
    """`data_netloc` is our data process's `host:port`: its URLs are BlobUrls. Raises InvalidRequest."""
    given = text.strip()
    if not given:
        raise InvalidRequest(f"An empty data address. Use {_FORMS}.")
    lowered = given.lower()
    if lowered.startswith("azureml://"):
        return _azureml(given[len("azureml://") :], given)
    if lowered.startswith("azureml:"):
        return _short(given[len("azureml:") :], given)
    if lowered.startswith("/subscriptions/"):
        return _workspace_id(given, given)
    if lowered.startswith("runs:/"):
        job, _, path = given[len("runs:/") :].lstrip("/").partition("/")
        return JobOutputUri(_needed(job, "job", given), "artifacts", path)
    match = _SCHEME.match(given)
    if match is None:
        return LocalPath(given.removeprefix("file:"))
    scheme = match["scheme"].lower()
    if scheme == "file":
        return LocalPath(unquote(_split(given).path))
    if scheme in ("http", "https"):
        return _web(given, data_netloc)
    return OtherUrl(scheme, given)


def render_uri(uri: Uri) -> str:
    """What parse_uri reads back as the same value (blob URLs: need an endpoint, see data.bloburls)."""
    match uri:
        case AssetName(name, version, label):
            return f"azureml:{name}:{version}" if version else f"azureml:{name}@{label or 'latest'}"
        case AssetId(scope, kind, name, version, label):
            end = f"versions/{version}" if version else f"labels/{label}"
            return f"{scope.arm_id}/{kind}/{name}/{end}" if scope else f"azureml://{kind}/{name}/{end}"
        case RegistryUri(registry, kind, name, version, label):
            end = f"versions/{version}" if version else f"labels/{label}"
            return f"azureml://registries/{registry}/{kind}/{name}/{end}"
        case DatastoreUri(datastore, path, scope):
            base = "azureml://"
            if scope is not None:
                base += f"subscriptions/{scope.subscription}/resourcegroups/{scope.group}/"
                base += f"workspaces/{scope.workspace}/"
            return f"{base}datastores/{datastore}/paths/{path}"
        case JobOutputUri(job, output, path):
            return f"azureml://jobs/{job}/outputs/{output}" + (f"/paths/{path}" if path else "")
        case BlobUrl(account, container, path):
            return f"https://{account}.blob.core.windows.net/{container}/{path}"
        case WebUrl(url) | OtherUrl(_, url):
            return url
        case LocalPath(path):
            return path


def _azureml(rest: str, given: str) -> Uri:
    head, _, tail = rest.partition("/")
    match head.lower():
        case "datastores":
            return _datastore(tail, None, given)
        case "jobs":
            return _job_output(tail, given)
        case "registries":
            registry, _, asset = tail.partition("/")
            found = _ASSET.match(asset)
            if found is None:
                raise InvalidRequest(
                    f"{given!r} is not a registry asset: use azureml://registries/REGISTRY/KIND/NAME/versions/VERSION."
                )
            return RegistryUri(
                registry, found["kind"], found["name"], found["version"] or "", found["label"] or ""
            )
        case "subscriptions":
            return _workspace_id("/" + rest, given)
        case "locations":  # azureml://locations/R/workspaces/GUID/data/n/versions/v: this workspace's own
            found = _ASSET.match("/".join(tail.split("/")[3:]))
            if found is not None:
                return AssetId(
                    None, found["kind"], found["name"], found["version"] or "", found["label"] or ""
                )
        case _:
            found = _ASSET.match(rest)
            if found is not None:
                return AssetId(
                    None, found["kind"], found["name"], found["version"] or "", found["label"] or ""
                )
    raise InvalidRequest(f"{given!r} is not an address that can be read. Use {_FORMS}.")


def _short(rest: str, given: str) -> Uri:
    """After `azureml:`. The SDK writes a long address with one slash missing, too."""
    if rest.lower().startswith("/subscriptions/"):
        return _workspace_id(rest, given)
    name, at, label = rest.partition("@")
    if at:
        return AssetName(_needed(name, "name", given), label=_needed(label, "label", given))
    name, _, version = rest.partition(":")
    if not version:
        raise InvalidRequest(
            f"{given!r} names no version. Write 'azureml:{name}:VERSION' or 'azureml:{name}@latest'."
        )
    return AssetName(_needed(name, "name", given), version=version)


def _workspace_id(text: str, given: str) -> Uri:
    parsed = parse_workspace_id(text)
    if parsed is None:
        raise InvalidRequest(f"{given!r} is not the id of anything in a workspace. Use {_FORMS}.")
    scope, rest = parsed
    if rest and rest[0].lower() == "datastores":
        after = text[text.lower().index("/datastores/") + len("/datastores/") :]
        return _datastore(after, scope, given)
    if rest and rest[0].lower() == "jobs" and len(rest) > 3:
        return _job_output(text[text.lower().index("/jobs/") + len("/jobs/") :], given)
    found = _ASSET.match("/".join(rest))
    if found is None:
        raise InvalidRequest(
            f"{given!r} is not the id of an asset version or of a datastore path. Use {_FORMS}."
        )
    # The SDK makes `…/data/azureml:digits/versions/1` of an input `azureml:digits@latest`.
    name = found["name"].removeprefix("azureml:")
    return AssetId(scope, found["kind"], name, found["version"] or "", found["label"] or "")


def _datastore(rest: str, scope: Scope | None, given: str) -> DatastoreUri:
    name, _, path = rest.partition("/")
    if path == "paths":
        path = ""
    return DatastoreUri(_needed(name, "datastore", given), path.removeprefix("paths/").lstrip("/"), scope)


def _job_output(rest: str, given: str) -> JobOutputUri:
    job, _, after = rest.partition("/")
    keyword, _, output = after.partition("/")
    output, _, path = output.partition("/")
    if keyword.lower() != "outputs" or not output:
        raise InvalidRequest(
            f"{given!r} names no output: use azureml://jobs/JOB/outputs/OUTPUT[/paths/PATH]."
        )
    return JobOutputUri(
        _needed(job, "job", given), output, path.removeprefix("paths/") if path != "paths" else ""
    )


def _web(given: str, data_netloc: str) -> Uri:
    parts = _split(given)
    host = parts.netloc.rsplit(":", 1)[0].lower()
    if host in LOOPBACK:
        account, container, path = resolve_blob_url(given)
        if account is not None and container:
            return BlobUrl(account, container, path)
        if parts.netloc.lower() == data_netloc.lower() and container:
            return BlobUrl("", container, path)
    return WebUrl(given)


def _split(given: str) -> SplitResult:
    try:
        return urlsplit(given)
    except ValueError as error:
        raise InvalidRequest(f"{given[:200]!r} is no address: {error}. Use {_FORMS}.") from error


def _needed(value: str, what: str, given: str) -> str:
    if not value:
        raise InvalidRequest(f"{given!r} names no {what}. Use {_FORMS}.")
    return value
