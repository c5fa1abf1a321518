"""Container groups from the command line: files and flags become bodies, refusals find their place."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tidemill.cli.errors import REFUSED, USAGE, CliError
from tidemill.cli.framework import pairs
from tidemill.cli.session import Session
from tidemill.cli.urls import segment
from tidemill.cli.yaml.document import Document, Problem, Trail, YamlError, read_file
from tidemill.domain.containers.model import RUNTIME_TAG, SANDBOX

API = "2023-05-01"
_TOP = ("apiVersion", "location", "name", "properties", "tags", "type", "identity", "id")
# The server's words for a value that is wrong as it is written, whoever asks and whenever.
_WRONG = ("BadRequest", "InvalidContainerGroup", "InvalidContainerGroupName", "InvalidTag", "NotOffered")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def path_of(session: Session, name: str = "") -> str:
    base = f"{session.group_id}/providers/Microsoft.ContainerInstance/containerGroups"
    return f"{base}/{segment(name)}" if name else base


def path_in(session: Session, name: str, container: str, verb: str) -> str:
    """Of something that is asked of one container."""
    return f"{path_of(session, name)}/containers/{segment(container)}/{verb}"


def native(session: Session, name: str = "", *below: str) -> str:
    parts = "".join(f"/{segment(part)}" for part in (name, *below) if part)
    return f"/api/v1{session.group_id}/containerGroups{parts}"


def load(path: Path, shown: str) -> Document:
    """Azure's YAML of a container group (JSON is YAML, too). Raises YamlError, CliError."""
    document = read_file(path, shown)
    data = document.data
    if not isinstance(data, dict):
        raise YamlError([Problem(document.place(()), "A container group is a mapping with properties.")])
    unknown = [key for key in cast(dict[str, Any], data) if key not in _TOP]
    problems = [
        Problem(document.key_place((key,)), f"{key}: not known here. Known: {', '.join(_TOP[:6])}.")
        for key in unknown
    ]
    if not isinstance(cast(dict[str, Any], data).get("properties"), dict):
        problems.append(Problem(document.place(()), "properties is missing: what the group is made of."))
    if problems:
        raise YamlError(problems)
    return document


def body_of(data: Mapping[str, Any], location: str) -> dict[str, Any]:
    body = {key: data[key] for key in ("properties", "tags", "identity") if data.get(key)}
    return {"location": data.get("location") or location, **body}


def body_from_flags(
    name: str,
    image: str,
    command: str | None,
    cpu: float,
    memory: float,
    ports: tuple[int, ...],
    variables: tuple[str, ...],
    secure: tuple[str, ...],
    restart: str,
    runtime: str,
) -> dict[str, Any]:
    """One container, named as the group, by the flags of `az container create`. Raises CliError."""
    plain = pairs("--environment-variables", variables)
    hidden = pairs("--secure-environment-variables", secure, secret=True)
    given = [{"name": key, "value": value} for key, value in plain.items()]
    given += [{"name": key, "secureValue": value} for key, value in hidden.items()]
    container: dict[str, Any] = {
        "image": image,
        "resources": {"requests": {"cpu": cpu, "memoryInGB": memory}},
        "environmentVariables": given,
        "ports": [{"port": port} for port in ports],
    }
    if command:
        try:
            container["command"] = shlex.split(command)
        except ValueError as error:
            raise CliError(
                f"--command-line {command!r} cannot be read: {error}.", USAGE, "UsageError"
            ) from None
    properties: dict[str, Any] = {
        "osType": "Linux",
        "restartPolicy": restart,
        "containers": [{"name": name, "properties": container}],
    }
    if ports:
        properties["ipAddress"] = {"type": "Private", "ports": [{"port": port} for port in ports]}
    tags = {} if runtime == SANDBOX else {RUNTIME_TAG: runtime}
    return {"properties": properties, "tags": tags}


@contextmanager
def placed(document: Document | None) -> Iterator[None]:
    """What the server refuses names its line and column of the file; a value that is wrong is wrong usage."""
    try:
        yield
    except CliError as error:
        if error.exit_code == REFUSED and error.code in _WRONG:
            error.exit_code = USAGE
        trail = _trail(error.target or "")
        if document is None or not trail:
            raise
        while trail and trail not in document.values and trail not in document.keys:
            trail = trail[:-1]
        place = document.place(trail)
        raise CliError(f"{place}: {error.message}", error.exit_code, error.code, error.target) from None


def _trail(target: str) -> Trail:
    """ "properties.containers[0].name" -> ("properties", "containers", 0, "name"); a tag's name has dots."""
    if target.startswith("tags."):
        return ("tags", target.removeprefix("tags."))
    if not target.startswith("properties"):
        return ()
    return tuple(int(number) if number else word for word, number in _STEP.findall(target))
