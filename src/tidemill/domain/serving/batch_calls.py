"""What a call of a batch endpoint says: the body that the SDK, the CLI and REST clients send to its address
(https://learn.microsoft.com/azure/machine-learning/how-to-access-data-batch-endpoints-jobs).

Names of keys count without their case: the documentation's examples write them with a capital.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.fields import choice, integer, mapping, text
from tidemill.domain.parallel import file_name
from tidemill.domain.serving.batch import (
    MODEL,
    MOST_INSTANCES,
    BatchDeploymentSpec,
    Batching,
    read_batching,
)

LITERAL = "literal"
_INPUTS = {
    "literal": LITERAL,
    "urifile": "uri_file",
    "urifolder": "uri_folder",
    "mltable": "mltable",
    "mlflowmodel": "mlflow_model",
    "custommodel": "custom_model",
    "tritonmodel": "triton_model",
}
_OUTPUTS = {key: value for key, value in _INPUTS.items() if key != "literal"}
SCORED = ("uri_folder", "uri_file", "mltable")  # what a model's deployment takes
# An address in a datastore by its ARM id, as Azure's REST examples have it.
_STORED = re.compile(
    r"(?:azureml:)?/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/"
    r"Microsoft\.MachineLearningServices/workspaces/([^/]+)/datastores/([^/]+)/paths/(.+)\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class CallInput:
    """`value`: an address, an asset's id, or the text of a literal."""

    name: str
    type: str
    value: str
    mode: str = ""


@dataclass(frozen=True, slots=True)
class CallOutput:
    """`uri` "": the usual place. With `asset_name` it is registered once the job is Completed."""

    name: str
    type: str = "uri_folder"
    uri: str = ""
    mode: str = ""
    asset_name: str = ""
    asset_version: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """`name`, `experiment`, `compute`, `instance_type` "", `instances` and `output_file` None: as the
    deployment has it. `batching`: the deployment's, with what the call changes."""

    name: str = ""
    experiment: str = ""
    inputs: tuple[CallInput, ...] = ()
    outputs: tuple[CallOutput, ...] = ()
    batching: Batching = field(default_factory=Batching)
    compute: str = ""
    instances: int | None = None
    instance_type: str = ""
    output_file: str = ""


def read_call(spec: BatchDeploymentSpec, body: Mapping[str, Any]) -> Call:
    """Raises InvalidRequest or NotOffered (target: the property)."""
    given = _folded(_folded(body).get("properties"), "properties")
    if given.get("dataset"):
        raise NotOffered(
            "'dataset' names a dataset of Azure ML's first API, which is not offered. Give inputData.",
            "properties.dataset",
        )
    more = _folded(given.get("properties"), "properties.properties")
    compute = _folded(given.get("compute"), "properties.compute")
    outputs = _outputs(given)
    call = Call(
        text(given.get("name")),
        text(more.get("experimentname")),
        _inputs(given.get("inputdata")),
        outputs,
        _batching(given, spec.batching),
        text(compute.get("target")),
        integer(compute["instancecount"], 1, "properties.compute.instanceCount", 1, MOST_INSTANCES)
        if compute.get("instancecount") is not None
        else None,
        text(compute.get("instancetype")),
        file_name(given.get("outputfilename") or spec.output_file, "properties.outputFileName"),
    )
    _check(spec, call, given)
    return call


def _folded(raw: Any, where: str = "body") -> dict[str, Any]:
    return {str(key).lower(): value for key, value in mapping(raw, where).items()}


def _batching(given: Mapping[str, Any], default: Batching) -> Batching:
    retry = _folded(given.get("retrysettings"), "properties.retrySettings")
    return read_batching(
        {
            "miniBatchSize": given.get("minibatchsize"),
            "errorThreshold": given.get("errorthreshold"),
            "loggingLevel": given.get("logginglevel"),
            "retrySettings": {"maxRetries": retry.get("maxretries"), "timeout": retry.get("timeout")},
        },
        default,
    )


def _inputs(raw: Any) -> tuple[CallInput, ...]:
    found: list[CallInput] = []
    for name, value in mapping(raw, "properties.inputData").items():
        where = f"properties.inputData.{name}"
        one = _folded(value, where)
        kind = choice(one.get("jobinputtype"), _INPUTS, "uri_folder", f"{where}.jobInputType")
        content = text(one.get("value")) if kind == LITERAL else stored(text(one.get("uri")))
        if kind != LITERAL and not content:
            raise InvalidRequest(
                f"Input {name!r} has no uri: give the address of a {kind}, or a data asset's id.",
                target=f"{where}.uri",
            )
        found.append(CallInput(str(name), kind, content, text(one.get("mode"))))
    return tuple(found)


def _outputs(given: Mapping[str, Any]) -> tuple[CallOutput, ...]:
    found: list[CallOutput] = []
    for name, value in mapping(given.get("outputdata"), "properties.outputData").items():
        where = f"properties.outputData.{name}"
        one = _folded(value, where)
        found.append(
            CallOutput(
                str(name),
                choice(one.get("joboutputtype"), _OUTPUTS, "uri_folder", f"{where}.jobOutputType"),
                stored(text(one.get("uri"))),
                text(one.get("mode")),
                text(one.get("assetname")),
                text(one.get("assetversion")),
            )
        )
    dataset = _folded(given.get("outputdataset"), "properties.outputDataset")
    if dataset:
        store = text(dataset.get("datastoreid")).removeprefix("azureml:").rstrip("/").rsplit("/", 1)[-1]
        path = text(dataset.get("path")).strip("/")
        if not store or not path:
            raise InvalidRequest(
                "outputDataset needs a datastoreId and a path: where the results are to lie.",
                target="properties.outputDataset",
            )
        found.append(CallOutput("score", uri=f"azureml://datastores/{store}/paths/{path}/"))
    return tuple(found)


def stored(uri: str) -> str:
    """An address in a datastore that is given by its ARM id, in the form that jobs have it."""
    found = _STORED.match(uri)
    if found is None:
        return uri
    subscription, group, workspace, store, path = found.groups()
    return (
        f"azureml://subscriptions/{subscription}/resourcegroups/{group}/workspaces/{workspace}"
        f"/datastores/{store}/paths/{path}"
    )


def _check(spec: BatchDeploymentSpec, call: Call, given: Mapping[str, Any]) -> None:
    if spec.kind == MODEL:
        return _check_scoring(spec, call)
    said = [
        key
        for key in ("miniBatchSize", "errorThreshold", "retrySettings", "outputFileName", "loggingLevel")
        if given.get(key.lower()) is not None
    ]
    said += ["compute.instanceCount"] if call.instances is not None else []
    said += ["compute.instanceType"] if call.instance_type else []
    if said:
        raise InvalidRequest(
            f"Deployment {spec.label!r} runs a pipeline component, so {said[0]} means nothing to it: "
            "its steps say it themselves. Leave it out.",
            target=f"properties.{said[0]}",
        )


def _check_scoring(spec: BatchDeploymentSpec, call: Call) -> None:
    """One input with files, one output: as on Azure."""
    if len(call.inputs) != 1:
        names = ", ".join(one.name for one in call.inputs)
        raise InvalidRequest(
            f"Deployment {spec.label!r} scores one input with a model; "
            + (f"the call has {len(call.inputs)}: {names}." if names else "the call has none.")
            + " Several inputs are for deployments of pipeline components.",
            target="properties.inputData",
        )
    (one,) = call.inputs
    if one.type not in SCORED:
        raise InvalidRequest(
            f"Input {one.name!r} is a {one.type}: deployment {spec.label!r} scores files with a model. Give "
            f"one of {', '.join(SCORED)}. Literals are for deployments of pipeline components.",
            target=f"properties.inputData.{one.name}",
        )
    if len(call.outputs) > 1:
        names = ", ".join(one.name for one in call.outputs)
        raise InvalidRequest(
            f"Deployment {spec.label!r} has one output, 'score'; the call has {len(call.outputs)}: {names}.",
            target="properties.outputData",
        )
    for output in call.outputs:
        if output.type not in ("uri_folder", "uri_file"):
            raise InvalidRequest(
                f"Output {output.name!r} is a {output.type}: scores are a uri_folder or a uri_file.",
                target=f"properties.outputData.{output.name}",
            )
        if output.type == "uri_file" and not spec.append:
            raise InvalidRequest(
                f"Output {output.name!r} is a uri_file, but the script of deployment {spec.label!r} writes "
                "its results itself (output_action: summary_only): give a uri_folder.",
                target=f"properties.outputData.{output.name}",
            )
