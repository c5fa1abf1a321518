"""Batch endpoints and their deployments, read from Azure's bodies into frozen values.

`read_endpoint` and `read_deployment` take ARM `properties` of any API version that the SDK speaks
(https://learn.microsoft.com/rest/api/azureml/batch-endpoints, …/batch-deployments) and refuse what cannot be
run, naming the property. Where a body says nothing, Azure's defaults hold. What a call of one says is read by
`batch_calls`, and what becomes of it is `batch_jobs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill.domain.components import truth
from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.fields import choice, duration, integer, mapping, text, variables
from tidemill.domain.parallel import LEVELS, file_name
from tidemill.domain.serving.model import check_code, check_name, model_id

AAD_TOKEN = "AADToken"
MODEL, PIPELINE = "Model", "PipelineComponent"  # kinds of deployments
_KINDS = {"model": MODEL, "pipelinecomponent": PIPELINE}
APPEND_ROW, SUMMARY_ONLY = "AppendRow", "SummaryOnly"
_ACTIONS = {"appendrow": APPEND_ROW, "summaryonly": SUMMARY_ONLY}
OUTPUT_FILE = "predictions.csv"
MOST = 2**31 - 1
MOST_INSTANCES = 1000
LONGEST_S = 259_200.0  # of one mini-batch: three days, as for parallel steps
# Of a pipeline component's deployment: what its `settings` may say, without Azure's prefix.
SETTINGS = (
    "default_compute",
    "default_datastore",
    "continue_on_step_failure",
    "continue_on_failed_optional_input",
    "force_rerun",
)
_PREFIX = "componentdeployment.settings."


@dataclass(frozen=True, slots=True)
class BatchEndpointSpec:
    """`default`: the deployment that calls go to which name none, "" for none; None: nothing is said."""

    name: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """How the input is cut and worked on. `size`: files of a mini-batch; `concurrency`: workers of a node;
    `errors`: items that may stay without a result, -1 any number; `timeout_s`: of one mini-batch."""

    size: int = 10
    concurrency: int = 1
    errors: int = -1
    retries: int = 3
    timeout_s: float = 30.0
    logging_level: str = "INFO"


@dataclass(frozen=True, slots=True)
class BatchDeploymentSpec:
    """What runs when it is called. `model`, `code_id`, `environment_id`, `component` are references as they
    were given, "" where there are none; `compute` likewise, "" for nodes of the job's own. Of kind PIPELINE
    only `component` and `settings` count."""

    endpoint: str
    name: str
    kind: str = MODEL
    model: str = ""
    code_id: str = ""
    scoring_script: str = ""
    environment_id: str = ""
    environment_variables: tuple[tuple[str, str], ...] = ()
    compute: str = ""
    instances: int = 1
    instance_type: str = ""
    batching: Batching = field(default_factory=Batching)
    append: bool = True
    output_file: str = OUTPUT_FILE
    component: str = ""
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        return f"{self.endpoint}/{self.name}"


def read_endpoint(name: str, properties: Mapping[str, Any]) -> BatchEndpointSpec:
    """Raises InvalidRequest or NotOffered (target: the property)."""
    check_name(name, "Endpoint")
    mode = text(properties.get("authMode")) or AAD_TOKEN
    if mode.lower().replace("_", "") != "aadtoken":
        raise NotOffered(
            f"Endpoint {name!r} has auth mode {mode!r}: a call of a batch endpoint is a job of whoever "
            "calls, so callers sign in, as on Azure. Use AADToken (auth_mode: aad_token).",
            "properties.authMode",
        )
    if "defaults" not in properties:
        return BatchEndpointSpec(name)
    defaults = mapping(properties.get("defaults"), "properties.defaults")
    return BatchEndpointSpec(name, text(defaults.get("deploymentName")))


def read_deployment(endpoint: str, name: str, properties: Mapping[str, Any]) -> BatchDeploymentSpec:
    """Raises InvalidRequest or NotOffered."""
    check_name(name, "Deployment")
    where = "properties.deploymentConfiguration"
    configuration = mapping(properties.get("deploymentConfiguration"), where)
    kind = choice(
        configuration.get("deploymentConfigurationType"),
        _KINDS,
        MODEL,
        f"{where}.deploymentConfigurationType",
    )
    if kind == PIPELINE:
        return _pipeline(endpoint, name, configuration)
    code = mapping(properties.get("codeConfiguration"), "properties.codeConfiguration")
    resources = mapping(properties.get("resources"), "properties.resources")
    action = choice(properties.get("outputAction"), _ACTIONS, APPEND_ROW, "properties.outputAction")
    spec = BatchDeploymentSpec(
        endpoint,
        name,
        MODEL,
        model=model_id(properties.get("model")),
        code_id=text(code.get("codeId")),
        scoring_script=text(code.get("scoringScript")),
        environment_id=text(properties.get("environmentId")),
        environment_variables=variables(properties.get("environmentVariables")),
        compute=text(properties.get("compute")),
        instances=integer(
            resources.get("instanceCount"), 1, "properties.resources.instanceCount", 1, MOST_INSTANCES
        ),
        instance_type=text(resources.get("instanceType")),
        batching=read_batching(properties, Batching()),
        append=action == APPEND_ROW,
        output_file=file_name(properties.get("outputFileName") or OUTPUT_FILE, "properties.outputFileName"),
    )
    _check_whole(spec)
    return spec


def read_batching(given: Mapping[str, Any], default: Batching, where: str = "properties") -> Batching:
    """`default` for what is not said. Raises InvalidRequest."""
    retry = mapping(given.get("retrySettings"), f"{where}.retrySettings")
    level = text(given.get("loggingLevel")).upper() or default.logging_level
    if level not in LEVELS:
        raise InvalidRequest(
            f"loggingLevel is {given['loggingLevel']!r}. Use one of {', '.join(LEVELS)}.",
            target=f"{where}.loggingLevel",
        )
    return Batching(
        integer(given.get("miniBatchSize"), default.size, f"{where}.miniBatchSize", 1, MOST),
        integer(
            given.get("maxConcurrencyPerInstance"),
            default.concurrency,
            f"{where}.maxConcurrencyPerInstance",
            1,
            1024,
        ),
        integer(given.get("errorThreshold"), default.errors, f"{where}.errorThreshold", -1, MOST),
        integer(retry.get("maxRetries"), default.retries, f"{where}.retrySettings.maxRetries", 0, MOST),
        duration(retry.get("timeout"), default.timeout_s, f"{where}.retrySettings.timeout", 1, LONGEST_S),
        level,
    )


def _check_whole(spec: BatchDeploymentSpec) -> None:
    """There is something to run, and how."""
    check_code(f"deployment {spec.name!r}", spec.code_id, spec.scoring_script)
    if not spec.code_id and not spec.model:
        raise InvalidRequest(
            f"Deployment {spec.name!r} has neither a scoring script nor a model: there is nothing to run. "
            "Give code_configuration, or a model that needs none (an mlflow_model); a pipeline component "
            "needs type: pipeline.",
            target="properties.model",
        )


def _pipeline(endpoint: str, name: str, configuration: Mapping[str, Any]) -> BatchDeploymentSpec:
    where = "properties.deploymentConfiguration"
    component = mapping(configuration.get("componentId"), f"{where}.componentId")
    given = text(component.get("assetId"))
    if not given:
        raise InvalidRequest(
            f"Deployment {name!r} has no componentId, the pipeline component that it runs (YAML: component).",
            target=f"{where}.componentId",
        )
    return BatchDeploymentSpec(
        endpoint, name, PIPELINE, component=given, settings=_settings(configuration.get("settings"))
    )


def _settings(raw: Any) -> tuple[tuple[str, str], ...]:
    """Raises InvalidRequest for one that no pipeline has."""
    where = "properties.deploymentConfiguration.settings"
    found: dict[str, str] = {}
    for key, value in mapping(raw, where).items():
        name = key[len(_PREFIX) :] if key.lower().startswith(_PREFIX) else key
        if name not in SETTINGS:
            raise InvalidRequest(
                f"settings.{key} is not known. A pipeline component deployment has {', '.join(SETTINGS)}.",
                target=f"{where}.{key}",
            )
        if value is not None:
            found[name] = text(value)
    return tuple(found.items())


def pipeline_settings(spec: BatchDeploymentSpec) -> dict[str, Any]:
    """As a pipeline job's body has them."""
    return {
        name: value if name.startswith("default_") else truth(value, True) for name, value in spec.settings
    }
