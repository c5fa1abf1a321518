"""A job that was, submitted again: as it was (rerun), or with changes (clone). In YAML's words on the command
line, in ARM's in the body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.cli import submit
from tidemill.cli.errors import USAGE, CliError, did_you_mean
from tidemill.cli.session import Session
from tidemill.cli.yaml import references, to_arm

RERUN_OF, CLONE_OF = "tidemill.rerun_of", "tidemill.clone_of"
# Of the service, and of how it was started then: nothing of a new job's.
_OWN = ("status", "services", "provisioningState", "parentJobName", "error", "isArchived")
_MARKS = (RERUN_OF, CLONE_OF, "tidemill.schedule", "tidemill.scheduled_for")
_PRIORITIES = {"low": 1, "medium": 2, "high": 3}


@dataclass(frozen=True, slots=True)
class Change:
    path: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.path}: {self.old or '(none)'} -> {self.new}"


def body_of(job: Mapping[str, Any], name: str, mark: str) -> dict[str, Any]:
    """ARM's body of a new job, of the answer for an old one. `mark`: RERUN_OF or CLONE_OF."""
    old = str(job["name"])
    properties = {key: value for key, value in job["properties"].items() if key not in _OWN}
    if properties.get("displayName") == old:
        properties["displayName"] = name
    kept = {k: v for k, v in (properties.get("properties") or {}).items() if k not in _MARKS}
    properties["properties"] = {**kept, mark: old}
    return {"properties": properties}


def change(
    session: Session, properties: dict[str, Any], settings: tuple[str, ...], name: str
) -> list[Change]:
    """Carries out `--set PATH=VALUE` -> what became different. Raises CliError for a path that job `name`
    does not have, naming the nearest."""
    changes: list[Change] = []
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path:
            raise _refused(setting, "write it as PATH=VALUE, for example inputs.lr=0.1.")
        holder, key, made = _place(session, properties, setting, path, value, name)
        old = holder.get(key)
        if old != made:
            changes.append(Change(path, "" if old is None else str(old), str(made)))
        holder[key] = made
    return changes


def _place(
    session: Session, properties: dict[str, Any], setting: str, path: str, value: str, name: str
) -> tuple[dict[str, Any], str, Any]:
    """-> (the mapping, the key in it, its new value)."""
    head, _, rest = path.partition(".")
    if head == "inputs" and rest:
        return _input(session, properties, setting, rest, value, name)
    pipeline = str(properties.get("jobType", "")).lower() == "pipeline"
    named = (
        {"tags": "tags"} if pipeline else {"tags": "tags", "environment_variables": "environmentVariables"}
    )
    if head in named and rest:
        return _mapping(properties, named[head]), rest, value
    known = {**_TEXTS, **({} if pipeline else _OF_COMMANDS)}
    if path not in known:
        inputs = [f"inputs.{one}" for one in properties.get("inputs") or {}]
        words = [*inputs, *known, *(f"{one}.NAME" for one in named)]
        hint = did_you_mean(path, words) or f" There are: {', '.join(words)}."
        raise _refused(setting, f"job {name} has nothing called '{path}'.{hint}")
    where, convert = known[path]
    holder = properties
    for step in where[:-1]:
        holder = _mapping(holder, step)
    if path == "limits.timeout":
        holder.setdefault("jobLimitsType", "Command")
    try:
        return holder, where[-1], convert(session, value)
    except ValueError as error:
        raise _refused(setting, str(error)) from None


def _input(
    session: Session, properties: dict[str, Any], setting: str, which: str, value: str, name: str
) -> tuple[dict[str, Any], str, Any]:
    inputs = properties.get("inputs") or {}
    entry = inputs.get(which)
    if not isinstance(entry, dict):
        hint = did_you_mean(which, list(inputs)) or f" There are: {', '.join(inputs) or 'none'}."
        raise _refused(setting, f"job {name} has no input '{which}'.{hint}")
    kind = str(entry.get("jobInputType") or "literal").lower()
    if kind == "literal":
        return entry, "value", value
    if references.is_local(value):
        raise _refused(
            setting, f"input '{which}' is data ({kind}): name an asset (azureml:NAME:VERSION) or a URI."
        )
    asset = "models" if "model" in kind else "data"
    return entry, "uri", submit.asset_id(session, asset, value)


def _mapping(holder: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(holder.get(key), dict):
        holder[key] = {}
    return holder[key]


def _whole(_: Session, value: str) -> int:
    if not value.isascii() or not value.isdigit() or not int(value):
        raise ValueError(f"{value!r} must be a whole number, at least 1.")
    return int(value)


def _timeout(session: Session, value: str) -> str:
    return to_arm.iso_duration(_whole(session, value))


def _priority(_: Session, value: str) -> int:
    if value.lower() not in _PRIORITIES:
        raise ValueError(f"{value!r} is not one of {', '.join(_PRIORITIES)}.")
    return _PRIORITIES[value.lower()]


def _text(_: Session, value: str) -> str:
    if not value.strip():
        raise ValueError("the value is empty.")
    return value


def _environment(session: Session, value: str) -> str:
    return submit.asset_id(session, "environments", value)


_Convert = Callable[[Session, str], Any]
_TEXTS: dict[str, tuple[tuple[str, ...], _Convert]] = {
    "display_name": (("displayName",), _text),
    "experiment_name": (("experimentName",), _text),
    "description": (("description",), _text),
}
_OF_COMMANDS: dict[str, tuple[tuple[str, ...], _Convert]] = {
    "command": (("command",), _text),
    "compute": (("computeId",), submit.compute_id),
    "environment": (("environmentId",), _environment),
    "resources.instance_count": (("resources", "instanceCount"), _whole),
    "resources.instance_type": (("resources", "instanceType"), _text),
    "limits.timeout": (("limits", "timeout"), _timeout),
    "queue_settings.priority": (("queueSettings", "priority"), _priority),
}


def _refused(setting: str, why: str) -> CliError:
    return CliError(f"--set {setting}: {why}", USAGE, "UsageError")
