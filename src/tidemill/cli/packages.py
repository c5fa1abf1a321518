"""Packages of models: asked for, followed, fetched."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.cli import submit, upload
from tidemill.cli.blob import BlobClient, container_of
from tidemill.cli.download import place_of
from tidemill.cli.errors import FAILED, USAGE, CliError
from tidemill.cli.session import Session
from tidemill.cli.upload import Progress
from tidemill.cli.urls import segment
from tidemill.cli.yaml import load, references
from tidemill.cli.yaml.load import Spec

API = "2023-08-01-preview"
OCI, ARCHIVE, WHEELHOUSE = "oci", "docker-archive", "wheelhouse"
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Parts:
    """What a package is made of, as it was given; "" where it was not."""

    model: str
    environment: str = ""
    code: str = ""
    script: str = ""
    variables: Mapping[str, str] | None = None


def parts_of(parts: Parts, spec: Spec | None) -> Parts:
    """What is not given is the deployment file's."""
    if spec is None:
        return parts
    code = spec.data.get("code_configuration") or {}
    return Parts(
        parts.model or str(spec.data.get("model") or ""),
        parts.environment,
        parts.code,
        parts.script or str(code.get("scoring_script") or ""),
        {**(spec.data.get("environment_variables") or {}), **(parts.variables or {})},
    )


def check_parts(parts: Parts, spec: Spec | None) -> None:
    """Before anything is uploaded. Raises CliError."""
    code = parts.code or ((spec.data.get("code_configuration") or {}).get("code") if spec is not None else "")
    if not parts.model:
        raise CliError("Name a model, NAME:VERSION, or give --file.", USAGE, "UsageError")
    if code and not parts.script:
        raise CliError(
            f"Which file of {code} answers requests? Give its path below the folder by --entry-script.",
            USAGE,
            "UsageError",
        )
    if parts.script and not code:
        raise CliError(
            f"--entry-script {parts.script!r} lies in no folder: give that by --code.", USAGE, "UsageError"
        )


def model_of(session: Session, given: str) -> tuple[str, str]:
    """-> (name, version) of `NAME:VERSION`, `azureml:NAME:VERSION`, `NAME@latest` or `NAME`. Raises
    CliError."""
    text = given if given.startswith("azureml:") else f"azureml:{given}"
    asset = references.asset_reference(text)
    if asset is None or not asset.name:
        raise CliError(f"{given!r} is no registered model: write NAME:VERSION.", USAGE, "UsageError")
    version = asset.version or submit.latest_version(session, "models", asset.name)
    if not version:
        raise CliError(f"There is no model {asset.name!r}. See: tidemill model list", USAGE, "ModelNotFound")
    return asset.name, version


def environment_id(session: Session, given: str, spec: Spec | None) -> str:
    """Of a registered or curated one, of one in a YAML file, or of the deployment file's."""
    path = Path(given).expanduser()
    if given.endswith((".yml", ".yaml")):
        own = load.load_environment(path, (f"name={path.stem}",), given)
        return submit.environment_id(session, own, own.data)
    if given:
        plain = given.startswith(("azureml:", "azureml/", "/"))
        return submit.asset_id(session, "environments", given if plain else f"azureml:{given}")
    if spec is not None and spec.data.get("environment"):
        return submit.environment_id(session, spec, spec.data["environment"])
    return ""


def code_id(session: Session, given: str, spec: Spec | None) -> str:
    if given:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise CliError(f"--code {given!r} is no folder.", USAGE, "UsageError")
        return upload.upload_code(session, folder)
    code = (spec.data.get("code_configuration") or {}).get("code") if spec is not None else None
    return submit.code_id(session, spec, code) if spec is not None and code else ""


def begin(
    session: Session, parts: Parts, spec: Spec | None, name: str, version: str, form: str
) -> tuple[str, str]:
    """Asks for it -> (name, version) of the package."""
    model, of = model_of(session, parts.model)
    found, code = environment_id(session, parts.environment, spec), code_id(session, parts.code, spec)
    server: dict[str, Any] = {"serverType": "AzureMLOnline"}
    if code or parts.script:
        server["codeConfiguration"] = {"codeId": code, "scoringScript": parts.script}
    body: dict[str, Any] = {
        "targetEnvironmentId": name or f"{model}-package",
        "inferencingServer": server,
        "environmentVariables": dict(parts.variables or {}),
        "format": WHEELHOUSE if form == WHEELHOUSE else OCI,
    }
    if version:
        body["targetEnvironmentId"] += f":{version}"
    if found:
        body["baseEnvironmentSource"] = {"baseEnvironmentSourceType": "EnvironmentAsset", "resourceId": found}
    path = f"{session.workspace_id()}/models/{segment(model)}/versions/{segment(of)}/package"
    answer = session.client.begin("POST", path, body, {"api-version": API}, wait=False)
    return answer["name"], answer["version"]


def path_of(session: Session, name: str, version: str) -> str:
    return f"{session.native}/packages/{segment(name)}/versions/{segment(version)}"


def follow(session: Session, name: str, version: str) -> dict[str, Any]:
    """Tells what goes on until it has ended -> PackageDetail. Raises CliError when it failed."""
    seen = 0
    while True:
        found = session.client.get(path_of(session, name, version))
        for entry in found["timeline"]:
            if entry["seq"] > seen:
                seen = entry["seq"]
                session.note(f"{entry['elapsed_s']:7.1f} s  {entry['message']}")
        if found["state"] == "Succeeded":
            return found
        if found["state"] == "Failed":
            error = found["error"] or {"code": "PackagingFailed", "message": "It failed."}
            raise CliError(error["message"], FAILED, error["code"])
        time.sleep(_LOOK_S)


def check_target(target: Path, form: str) -> None:
    """Before anything is made. Raises CliError."""
    if form == ARCHIVE:
        if target.is_dir():
            raise CliError(f"{target} is a folder: name a file, for example {target}/package.tar.", USAGE)
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CliError(f"{target} exists and is no empty folder: name a new one.", USAGE)
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "you may not write to it" if above.is_dir() else "it is no folder"
        raise CliError(f"{target} cannot be made in {above}: {why}. Name another place.", USAGE)


def download(session: Session, name: str, version: str, target: Path, form: str) -> None:
    """Into a new folder, or an archive, that is there when it is whole."""
    above = target.absolute().parent
    above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=above) as work:
        there = Path(work) / "package"
        _fetch(session, name, version, there)
        if form == ARCHIVE:
            from tidemill.packaging import archive

            try:
                archive.write(there, name, version, target)
            except archive.Unreadable as error:
                raise CliError(
                    f"No archive can be made of package {name}:{version}: {error}.",
                    FAILED,
                    "PackageUnreadable",
                ) from None
        else:
            there.chmod(0o755)
            if form == WHEELHOUSE:
                (there / "run").chmod(0o755)
            if target.is_dir():
                target.rmdir()
            shutil.move(there, target)


def _fetch(session: Session, name: str, version: str, folder: Path) -> None:
    path = f"{path_of(session, name, version)}/download"
    client = BlobClient(container_of(session.client.call("POST", path)["sasUri"], session.ca_file))
    try:
        blobs = list(client.list(""))
        progress = Progress(session, f"{name}:{version}", sum(blob.size for blob in blobs), len(blobs))
        for blob in blobs:
            client.get(blob.name, place_of(blob.name, "", folder), progress.add)
            progress.file_done()
        progress.finish("downloaded")
    finally:
        client.close()
