"""References inside a file: asset and compute references, local paths, `${{…}}` expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.cli.errors import did_you_mean
from tidemill.cli.yaml.document import Document, Problem, Trail

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_OPTIONAL_PART = re.compile(r"\$\[\[.*?\]\]", re.DOTALL)
_VALUES = {"value", "default", "path"}
_SECRET = re.compile(r"secrets\.[A-Za-z0-9][A-Za-z0-9_-]{0,126}(@[0-9a-f]{32})?")
_BINDING = re.compile(
    r"^(inputs|outputs|search_space)\.([A-Za-z_][A-Za-z0-9_]*)(\.[A-Za-z_][A-Za-z0-9_.]*)?$"
)
_REMOTE = re.compile(r"^(azureml|https?|wasbs?|abfss?|adl|s3|gs)://", re.IGNORECASE)
_ARM_ID = re.compile(r"^(azureml:)?/subscriptions/", re.IGNORECASE)
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.\-]*"
_ASSET = re.compile(
    rf"^azureml:(?P<name>{_NAME})(?::(?P<version>{_NAME})|@(?P<label>{_NAME}))?$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class AssetReference:
    """`azureml:NAME:VERSION`, `azureml:NAME@LABEL` or `azureml:NAME` (the latest)."""

    name: str
    version: str = ""
    label: str = ""


def asset_reference(text: str) -> AssetReference | None:
    match = _ASSET.match(text)
    if match is None:
        return None
    version, label = match["version"] or "", match["label"] or ""
    return AssetReference(match["name"], version, label or ("" if version else "latest"))


def is_remote(text: str) -> bool:
    """A URI or ARM id: nothing to resolve or upload."""
    return bool(_REMOTE.match(text) or _ARM_ID.match(text))


def is_local(text: str) -> bool:
    """A path on this machine (`file:` included)."""
    return not is_remote(text) and not text.lower().startswith("azureml:") and "${{" not in text


def local_path(document: Document, text: str) -> Path:
    text = text.removeprefix("file://") if text.startswith("file://") else text.removeprefix("file:")
    return (document.folder / Path(text).expanduser()).resolve()


def check_environment(document: Document, text: str, trail: Trail, problems: list[Problem]) -> None:
    if is_remote(text) or asset_reference(text):
        return
    if text.startswith("file:"):
        message = (
            f"environment {text!r}: a file is not read here. Write a mapping with its keys (image, "
            "conda_file), or register it (tidemill environment create -f …) and write azureml:NAME@latest."
        )
        problems.append(Problem(document.place(trail), message))
        return
    bare = text.removeprefix("azureml:")
    better = f"azureml:{bare}" if re.fullmatch(rf"{_NAME}([:@]{_NAME})?", bare) else "azureml:NAME@latest"
    problems.append(
        Problem(
            document.place(trail),
            f"environment {text!r} is no reference. Write azureml:NAME:VERSION, azureml:NAME@latest, "
            f"azureml://registries/…, or a mapping with image and conda_file. Did you mean '{better}'?",
        )
    )


def check_compute(document: Document, text: str, trail: Trail, problems: list[Problem]) -> None:
    """`azureml:NAME`, `NAME`, an ARM id, `local` or `serverless`."""
    if _ARM_ID.match(text) or re.fullmatch(rf"(azureml:)?{_NAME}", text):
        return
    problems.append(
        Problem(
            document.place(trail),
            f"compute {text!r} is no reference. Write azureml:CLUSTER, local or serverless.",
        )
    )


def check_data(document: Document, text: str, trail: Trail, problems: list[Problem], kind: str = "") -> None:
    """A data path: an asset, a URI, or something that exists here and is of the given kind."""
    if is_remote(text) or asset_reference(text) or "${{" in text:
        return
    if not is_local(text):
        problems.append(
            Problem(
                document.place(trail),
                f"{text!r} is no reference. Write azureml:NAME:VERSION, azureml:NAME@latest, "
                "azureml://datastores/…, a URL, or a local path.",
            )
        )
        return
    check_path(document, text, trail, problems, kind)


def default_type(document: Document, data: dict[str, Any]) -> str:
    """Of data without `type`: a local file is a uri_file, all else Azure's uri_folder."""
    given = data.get("type")
    if given:
        return str(given)
    path = str(data["path"])
    return "uri_file" if is_local(path) and local_path(document, path).is_file() else "uri_folder"


def check_code(document: Document, text: str, trail: Trail, problems: list[Problem]) -> None:
    """A folder or file of this machine, or a code asset."""
    if re.match(r"^(https?|git)[:+@]", text, re.IGNORECASE):
        message = f"code from {text} is not offered yet; fetch it and give its local folder."
        problems.append(Problem(document.place(trail), message))
    elif is_local(text):
        check_path(document, text, trail, problems)
    elif not is_remote(text) and not asset_reference(text):
        problems.append(
            Problem(document.place(trail), f"code {text!r} is no local folder and no azureml:NAME:VERSION.")
        )


def check_path(document: Document, text: str, trail: Trail, problems: list[Problem], kind: str = "") -> None:
    """`kind`: "uri_file" or "file", "uri_folder", "mltable" or "folder", or "" for either."""
    path = local_path(document, text)
    where = document.place(trail)
    if not path.exists():
        parent = path.parent
        names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        missing = (
            f"there is no folder {parent}" if not parent.is_dir() else f"there is no {path.name} in {parent}"
        )
        problems.append(
            Problem(where, f"{'.'.join(map(str, trail))}: {missing}.{did_you_mean(path.name, names)}")
        )
    elif kind in ("uri_file", "file") and not path.is_file():
        problems.append(Problem(where, f"{path} is a folder; {_say(kind)} needs a file."))
    elif kind in ("uri_folder", "mltable", "folder") and not path.is_dir():
        problems.append(Problem(where, f"{path} is a file; {_say(kind)} needs a folder."))


def _say(kind: str) -> str:
    return f"type: {kind}" if "_" in kind or kind == "mltable" else "this"


def check_expressions(
    document: Document,
    text: Any,
    trail: Trail,
    inputs: list[str],
    outputs: list[str],
    problems: list[Problem],
    space: list[str] | None = None,
) -> None:
    """Every `${{…}}` of a job names one of its inputs or outputs, of a sweep also one of its search `space`;
    in an environment variable, also a secret."""
    if not isinstance(text, str):
        return
    for match in _EXPRESSION.finditer(text):
        inside = match[1].strip()
        if "environment_variables" in trail and _SECRET.fullmatch(inside):
            continue
        message = _binding_problem(inside, {"inputs": inputs, "outputs": outputs, "search_space": space})
        if message:
            problems.append(Problem(document.place_in(trail, match[0]), f"{match[0]}: {message}"))
    rest = _EXPRESSION.sub("", text)
    if "${{" in rest:
        problems.append(
            Problem(document.place_in(trail, "${{"), "'${{' is not closed: write ${{inputs.NAME}}.")
        )


def check_unset(
    document: Document, command: Any, trail: Trail, inputs: dict[str, Any], problems: list[Problem]
) -> None:
    """An optional input without a value stands in optional parts of the command only."""
    required = _OPTIONAL_PART.sub(
        lambda part: " " * len(part[0]), command if isinstance(command, str) else ""
    )
    for match in _EXPRESSION.finditer(required):
        bound = _BINDING.match(match[1].strip())
        value = inputs.get(bound[2]) if bound and bound[1] == "inputs" else None
        if isinstance(value, dict) and value.get("optional") and not _VALUES & value.keys():
            name = bound[2] if bound else ""
            message = (
                f"input '{name}' is optional and has no value. Give it one, or put the part in $[[ … ]]."
            )
            problems.append(Problem(document.place_in(trail, match[0]), f"{match[0]}: {message}"))


def _binding_problem(inside: str, known: dict[str, list[str] | None]) -> str:
    match = _BINDING.match(inside)
    if match is None or known[match[1]] is None:
        scope = inside.split(".")[0]
        if scope == "secrets":
            return (
                "a secret goes into environment_variables, as NAME: ${{secrets.NAME}}; a command is seen in "
                "the list of processes."
            )
        if scope in ("search_space", "parent"):
            return f"'{scope}' exists only in {'sweep' if scope == 'search_space' else 'pipeline'} jobs."
        offered = [kind for kind, names in known.items() if names is not None]
        hint = did_you_mean(scope, offered)
        return f"write {' or '.join(f'{kind}.NAME' for kind in offered)}.{hint}"
    kind, name = match[1], match[2]
    names = known[kind] or []
    if name in names:
        return ""
    if not names:
        return f"this job has no {kind}."
    hint = did_you_mean(name, names) or f" There are: {', '.join(names)}."
    return f"there is no {kind.removesuffix('s').replace('_', ' ')} '{name}'.{hint}"
