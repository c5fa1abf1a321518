"""Fetching what a job left (its logs and artifacts, its named outputs), and models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tidemill.cli.blob import Blob, BlobClient
from tidemill.cli.errors import FAILED, NOT_FOUND, REFUSED, CliError, did_you_mean
from tidemill.cli.session import Session
from tidemill.cli.upload import Progress, open_store

ARTIFACTS = "workspaceartifactstore"
FINAL = ("Completed", "Failed", "Canceled")
_URI = re.compile(r"^azureml://(?:subscriptions/.*/)?datastores/(?P<store>[^/]+)(?:/paths)?/(?P<path>.*)$")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to fetch: a prefix in a datastore, and the folder below the target."""

    label: str
    store: str
    path: str
    folder: str


def parts_of(detail: dict[str, Any], output_name: str | None, everything: bool) -> list[Part]:
    """What `job download` takes. Raises CliError when the job is not final or has no such output."""
    name = detail["name"]
    if detail.get("status") not in FINAL:
        raise CliError(
            f"Job {name} is {detail.get('status')}; download it when it has ended. Follow it with: "
            f"tidemill job stream --name {name}",
            REFUSED,
            "JobNotFinal",
        )
    outputs: dict[str, Any] = {k: v or {} for k, v in (detail.get("outputs") or {}).items()}
    artifacts = Part("logs and artifacts", ARTIFACTS, f"ExperimentRun/dcid.{name}", "artifacts")
    if output_name == "default" or (output_name is None and not everything):
        return [artifacts]
    if output_name is not None and output_name not in outputs:
        known = ", ".join([*outputs, "default"])
        hint = did_you_mean(output_name, list(outputs)) or f" Its outputs: {known}."
        raise CliError(f"Job {name} has no output {output_name!r}.{hint}", NOT_FOUND, "OutputNotFound")
    wanted = [output_name] if output_name is not None else [key for key in outputs if key != "default"]
    named = [_part(name, key, outputs[key]) for key in wanted]
    return named if output_name is not None else [artifacts, *[part for part in named if part is not None]]


def _part(job: str, output: str, value: dict[str, Any]) -> Part:
    match = _URI.match(value.get("uri") or "")
    if match is None:
        uri = value.get("uri") or "nothing"
        raise CliError(
            f"Output {output!r} of job {job} is at {uri}, which is in no datastore of this workspace.",
            REFUSED,
            "OutputNotDownloadable",
        )
    return Part(f"output {output}", match["store"], match["path"].rstrip("/"), f"named-outputs/{output}")


def part_of_model(name: str, version: str, address: str) -> Part:
    """What `model download` takes. Raises CliError for one that is in no datastore."""
    match = _URI.match(address)
    if match is None:
        raise CliError(
            f"Model {name}:{version} is at {address or 'nothing'}, in no datastore of this workspace.",
            REFUSED,
            "ModelNotDownloadable",
        )
    return Part(f"model {name}:{version}", match["store"], match["path"].rstrip("/"), name)


def fetch(session: Session, part: Part, target: Path) -> tuple[int, int]:
    """-> (files, bytes) written below `target/part.folder`. Names that would leave it are refused."""
    store = open_store(session, part.store)
    client = BlobClient(store.container)
    try:
        blobs = [blob for blob in client.list(part.path) if _belongs(blob.name, part.path)]
        places = [(blob, place_of(blob.name, part.path, target / part.folder)) for blob in blobs]
        total = sum(blob.size for blob in blobs)
        progress = Progress(session, part.label, total, len(blobs))
        for blob, place in places:
            _get(client, blob, place, progress)
        progress.finish("downloaded")
        return len(blobs), total
    finally:
        client.close()


def place_of(name: str, prefix: str, folder: Path) -> Path:
    """Where a blob goes. Raises CliError for a name that leads out of the folder."""
    inside = name[len(prefix) :].lstrip("/") or PurePosixPath(name).name
    parts = inside.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\x00" in inside:
        raise CliError(
            f"The blob {name!r} has a name that no folder can hold; nothing of it was written.", FAILED
        )
    return folder.joinpath(*parts)


def _belongs(name: str, prefix: str) -> bool:
    """`model` takes `model` and `model/…`, not `model2`."""
    return name == prefix or name.startswith(prefix.rstrip("/") + "/")


def _get(client: BlobClient, blob: Blob, place: Path, progress: Progress) -> None:
    try:
        client.get(blob.name, place, progress.add)
    except OSError as error:
        raise CliError(
            f"{place} cannot be written: {error.strerror or error}.", FAILED, "CannotWrite"
        ) from error
    progress.file_done()
