"""A package of a model: what is asked for, what was resolved, and what became of it.

`read_package` takes the body of `models/{name}/versions/{version}/package` (PackageRequest of
2023-08-01-preview and what the SDK sends) and refuses what a package cannot hold. `format` is Tidemill's own.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.fields import choice, mapping, text, variables
from tidemill.domain.ids import check_name
from tidemill.domain.plan import JobError, Place, PlannedEnvironment
from tidemill.domain.secretrefs import references
from tidemill.domain.serving.model import check_code
from tidemill.domain.serving.plan import PlannedModel

OCI, WHEELHOUSE = "oci", "wheelhouse"
_FORMATS = {OCI: OCI, WHEELHOUSE: WHEELHOUSE}
CREATING, SUCCEEDED, FAILED = "Creating", "Succeeded", "Failed"  # states of rows
_SERVER_PORT = "AZUREML_SERVER_PORT"
_SERVERS = {
    "azuremlonline": "AzureMLOnline",
    "azuremlbatch": "AzureMLBatch",
    "triton": "Triton",
    "custom": "Custom",
}
_TARGET = re.compile(
    r"(?:^|/)environments/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?$|^(?:azureml:)?(?P<bare>[^/:]+)(?::(?P<of>[^/:]+))?$"
)


@dataclass(frozen=True, slots=True)
class PackageSpec:
    """`name`, `version`: of the environment that the package becomes; version "": its next. `mount`: where
    the model lies in it, "": where Azure has models."""

    model: str
    name: str
    version: str = ""
    environment_id: str = ""
    code_id: str = ""
    script: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    mount: str = ""
    format: str = OCI


@dataclass(frozen=True, slots=True)
class PackagePlan:
    spec: PackageSpec
    model: PlannedModel
    environment: PlannedEnvironment
    code: Place | None = None
    account: str = ""


@dataclass(frozen=True, slots=True)
class KeptLayer:
    """Of the package's image; `about` says what it holds."""

    digest: str
    size: int
    diff_id: str
    media_type: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class PackageStatus:
    """The `status` of a row `packages/versions`. `container`: of the workspace's storage, with its files;
    `digest` of the image's manifest, "" of what is none; `size` in bytes, of all its files."""

    plan: PackagePlan
    container: str = ""
    digest: str = ""
    size: int = 0
    layers: tuple[KeptLayer, ...] = ()
    notes: tuple[str, ...] = ()
    error: JobError | None = None


def read_package(model: str, version: str, body: Mapping[str, Any]) -> PackageSpec:
    """Raises InvalidRequest or NotOffered (target: the property)."""
    name, target = _target(body)
    code = _code(mapping(body.get("inferencingServer"), "inferencingServer"))
    if body.get("inputs"):
        raise NotOffered("A package holds its model and nothing besides: leave 'inputs' out.", "inputs")
    spec = PackageSpec(
        f"azureml:{model}:{version}",
        name,
        target,
        _environment(mapping(body.get("baseEnvironmentSource"), "baseEnvironmentSource")),
        _plain_id(text(code.get("codeId"))),
        text(code.get("scoringScript")),
        variables(body.get("environmentVariables"), "environmentVariables"),
        tuple((key, text(value)) for key, value in mapping(body.get("tags"), "tags").items()),
        _mount(mapping(body.get("modelConfiguration"), "modelConfiguration")),
        choice(body.get("format"), _FORMATS, OCI, "format"),
    )
    _check_whole(spec)
    return spec


def _target(body: Mapping[str, Any]) -> tuple[str, str]:
    given = text(body.get("targetEnvironmentId") or body.get("targetEnvironmentName"))
    found = _TARGET.search(given)
    if found is None:
        raise InvalidRequest(
            f"targetEnvironmentId {given!r} does not name an environment: give the name that the package "
            "gets (in the SDK: target_environment), for example digits-packaged.",
            target="targetEnvironmentId",
        )
    version = found["version"] or found["of"] or text(body.get("targetEnvironmentVersion"))
    if version:
        check_name(version, "Environment version")
    return check_name(found["name"] or found["bare"], "Environment"), version


def _code(server: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = choice(server.get("serverType"), _SERVERS, "AzureMLOnline", "inferencingServer.serverType")
    if kind != "AzureMLOnline":
        raise NotOffered(
            f"inferencingServer is {kind}: only packages for online scoring (AzureMLOnline) are offered. A "
            "batch deployment needs no package, and an image with a server of its own is deployed as it is.",
            "inferencingServer.serverType",
        )
    return mapping(server.get("codeConfiguration"), "inferencingServer.codeConfiguration")


def _environment(source: Mapping[str, Any]) -> str:
    kind = text(source.get("baseEnvironmentSourceType")) or "EnvironmentAsset"
    if kind.lower() != "environmentasset":
        raise NotOffered(
            f"baseEnvironmentSource is of type {kind!r}: only a registered environment (EnvironmentAsset) is "
            "offered.",
            "baseEnvironmentSource.baseEnvironmentSourceType",
        )
    return _plain_id(text(source.get("resourceId")))


def _plain_id(given: str) -> str:
    """The SDK puts `azureml:/` before ARM ids."""
    return given.removeprefix("azureml:/") if given.startswith("azureml://subscriptions/") else given


def _mount(configuration: Mapping[str, Any]) -> str:
    mode = text(configuration.get("mode")).lower()
    if mode not in ("", "copy"):
        raise NotOffered(
            f"modelConfiguration.mode is {mode!r}: a package brings its model along (copy), so that it needs "
            "no server.",
            "modelConfiguration.mode",
        )
    path = text(configuration.get("mountPath"))
    if path and (
        not path.startswith("/") or ".." in path.split("/") or "\0" in path or path.strip("/") == ""
    ):
        raise InvalidRequest(
            f"modelConfiguration.mountPath {path!r} must be an absolute path without '..', for example "
            "/var/models.",
            target="modelConfiguration.mountPath",
        )
    return posixpath.normpath(path).lstrip("/") if path else ""


def _check_whole(spec: PackageSpec) -> None:
    where = "inferencingServer.codeConfiguration"
    check_code(f"package {spec.name!r}", spec.code_id, spec.script, where)
    if _SERVER_PORT in dict(spec.variables):
        raise InvalidRequest(
            f"{_SERVER_PORT} cannot be fixed in a package: its image and its environment name the port that "
            "it listens on. Set that variable where the package runs.",
            target="environmentVariables",
        )
    named = references(spec.variables)
    if named:
        raise InvalidRequest(
            f"A package is a file that may go anywhere, so no secret goes into it ({named[0].name}): set "
            "that variable where the package runs.",
            target="environmentVariables",
        )
