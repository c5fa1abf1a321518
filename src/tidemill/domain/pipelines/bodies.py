"""What a step of a pipeline is as a job of its own: ARM properties, made of its component and of what the
pipeline says about the step (snake case on both sides, as in Azure's YAML)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from tidemill.domain.components import LITERALS, Component, maybe
from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.parallel import KEY, command_of, settings_of, task_of
from tidemill.domain.pipelines.model import COMMAND, PARALLEL, PIPELINE

_SNAKE = re.compile(r"_([a-z0-9])")
_DISTRIBUTIONS = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "mpi": "Mpi", "ray": "Ray"}
_IDENTITIES = {
    "aml_token": "AMLToken",
    "amltoken": "AMLToken",
    "user_identity": "UserIdentity",
    "useridentity": "UserIdentity",
    "managed": "Managed",
    "managed_identity": "Managed",
}


def body_of(step: str, component: Component, node: Mapping[str, Any], pipeline: Defaults) -> dict[str, Any]:
    """ARM properties without inputs and outputs. Raises NotOffered for kinds that do not run."""
    common: dict[str, Any] = {
        "displayName": str(_own(node, "display_name") or step),
        "description": str(node.get("description") or component.spec.get("description") or "") or None,
        "tags": _own(node, "tags") or component.spec.get("tags") or {},
        "properties": _own(node, "properties") or {},
        "computeId": _reference(_own(node, "compute_id") or _own(node, "compute") or pipeline.compute),
    }
    if component.kind == PIPELINE:
        settings = _merged(pipeline.settings, _own(node, "settings"))
        settings["default_compute"] = common["computeId"]
        return _kept({**common, "jobType": "Pipeline", "settings": _kept(settings)})
    if component.kind == PARALLEL:
        return _kept({**common, **_parallel(step, component, node, pipeline)})
    if component.kind != COMMAND:
        raise NotOffered(
            f"Step {step!r} is of type {component.kind}, which Tidemill does not run yet: "
            "steps of type command, parallel, sweep and pipeline do.",
            f"properties.jobs.{step}.type",
        )
    return _kept({**common, **_command(component.spec, node, pipeline)})


class Defaults:
    """What a pipeline's settings say for its steps."""

    def __init__(self, settings: Mapping[str, Any], compute: str) -> None:
        self.settings = settings
        self.compute = str(_own(settings, "default_compute") or compute or "")
        self.environment = str(_own(settings, "default_environment") or "")
        self.datastore = str(_own(settings, "default_datastore") or "")

    def place(self, step_output: str) -> str:
        """Where an output without an address goes: "" for the usual place."""
        name = self.datastore.rstrip("/").rsplit("/", 1)[-1].removeprefix("azureml:")
        return f"azureml://datastores/{name}/paths/azureml/${{{{name}}}}/{step_output}/" if name else ""


def _command(spec: Mapping[str, Any], node: Mapping[str, Any], pipeline: Defaults) -> dict[str, Any]:
    environment = _own(node, "environment") or spec.get("environment") or pipeline.environment
    variables = {
        **cast(Mapping[str, Any], spec.get("environment_variables") or {}),
        **cast(Mapping[str, Any], _own(node, "environment_variables") or {}),
    }
    return {
        "jobType": "Command",
        "command": spec.get("command"),
        "codeId": _reference(spec.get("code")),
        "environmentId": _reference(environment),
        "environmentVariables": {key: str(value) for key, value in variables.items()},
        "resources": camel(_merged(spec.get("resources"), _own(node, "resources"))),
        "limits": _limits(_merged(spec.get("limits"), _own(node, "limits"))),
        "distribution": _distribution(_own(node, "distribution") or spec.get("distribution")),
        "identity": _identity(_own(node, "identity") or spec.get("identity")),
        "queueSettings": _queue(_own(node, "queue_settings")),
        "services": camel(_own(node, "services")),
    }


def _parallel(step: str, component: Component, node: Mapping[str, Any], pipeline: Defaults) -> dict[str, Any]:
    """A command job with one process a node, and what is said of its mini-batches."""
    spec = component.spec
    settings, task = settings_of(step, spec, node), task_of(spec, node)
    where = f"properties.jobs.{step}"
    port = component.port(settings["input_data"])
    if port is None or port.type in LITERALS:
        raise InvalidRequest(
            f"Step {step!r}: input_data is input {settings['input_data']!r}, which "
            f"{'it does not have' if port is None else f'is of type {port.type}'}. Name one with "
            "files: uri_file, uri_folder or mltable.",
            target=f"{where}.input_data",
        )
    appended = settings.get("append_row_to", "")
    if appended and component.outlet(appended) is None:
        raise InvalidRequest(
            f"Step {step!r}: task.append_row_to is output {appended!r}, which it does not have.",
            target=f"{where}.task.append_row_to",
        )
    whole = {
        **spec,
        "command": command_of(task),
        "environment": task.get("environment") or task.get("environmentId"),
        "code": task.get("code") or task.get("codeId"),
    }
    # A distribution is for processes that work together, which these do not.
    return {**_command({**whole, "distribution": None}, node, pipeline), KEY: settings}


def _own(node: Mapping[str, Any], name: str) -> Any:
    """In snake case as the SDK writes it, or in ARM's."""
    return node.get(name) if node.get(name) is not None else node.get(camel_word(name))


def _reference(raw: Any) -> str:
    """`azureml:/subscriptions/…` is an ARM id; `azureml:NAME:VERSION` stays as it is."""
    text = str(raw or "")
    return text.removeprefix("azureml:") if text.startswith("azureml:/subscriptions/") else text


def _merged(one: Any, other: Any) -> dict[str, Any]:
    first = maybe(one)
    second = maybe(other)
    return {**first, **{key: value for key, value in second.items() if value is not None}}


def _limits(raw: Mapping[str, Any]) -> dict[str, Any]:
    timeout = raw.get("timeout")
    if timeout is None:
        return {}
    return {"timeout": f"PT{timeout}S" if str(timeout).isdigit() else timeout, "jobLimitsType": "Command"}


def _distribution(raw: Any) -> dict[str, Any] | None:
    if not isinstance(raw, Mapping):
        return None
    given = cast(Mapping[str, Any], raw)
    found = {
        camel_word(key): value for key, value in given.items() if key not in ("type", "distribution_type")
    }
    kind = str(given.get("type") or given.get("distribution_type") or found.pop("distributionType", ""))
    return {**found, "distributionType": _DISTRIBUTIONS.get(kind.lower(), kind)}


def _identity(raw: Any) -> dict[str, Any] | None:
    if not isinstance(raw, Mapping):
        return None
    given = cast(Mapping[str, Any], raw)
    kind = str(given.get("type") or given.get("identity_type") or given.get("identityType") or "")
    rest = {camel_word(key): value for key, value in given.items() if key not in ("type", "identity_type")}
    return {**rest, "identityType": _IDENTITIES.get(kind.lower(), kind)}


def _queue(raw: Any) -> dict[str, Any] | None:
    return camel(cast(Mapping[str, Any], raw)) if isinstance(raw, Mapping) else None


def camel(raw: Any) -> Any:
    """Keys of an object and of those in it, in ARM's case. Names that users chose lie deeper than these."""
    if not isinstance(raw, Mapping):
        return raw
    return {camel_word(key): camel(value) for key, value in cast(Mapping[str, Any], raw).items()}


def camel_word(word: str) -> str:
    return _SNAKE.sub(lambda match: match.group(1).upper(), word)


def _kept(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if value not in (None, "", {})}
