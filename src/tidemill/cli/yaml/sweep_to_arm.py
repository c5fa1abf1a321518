"""A checked sweep job -> the ARM body that Azure's SDK sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.cli.yaml.to_arm import Body, JobReferences, command_job, iso_duration

_GOALS = {"maximize": "Maximize", "minimize": "Minimize"}
_ALGORITHMS = {"random": "Random", "grid": "Grid", "bayesian": "Bayesian"}
_POLICIES = {
    "bandit": "Bandit",
    "median_stopping": "MedianStopping",
    "truncation_selection": "TruncationSelection",
}
_POLICY_FIELDS = {
    "evaluation_interval": "evaluationInterval",
    "delay_evaluation": "delayEvaluation",
    "slack_factor": "slackFactor",
    "slack_amount": "slackAmount",
    "truncation_percentage": "truncationPercentage",
    "exclude_finished_jobs": "excludeFinishedJobs",
}
_ARGUMENTS = {  # of a distribution, in ARM's order
    "choice": ("values",),
    **dict.fromkeys(("uniform", "loguniform"), ("min_value", "max_value")),
    **dict.fromkeys(("quniform", "qloguniform"), ("min_value", "max_value", "q")),
    **dict.fromkeys(("normal", "lognormal"), ("mu", "sigma")),
    **dict.fromkeys(("qnormal", "qlognormal"), ("mu", "sigma", "q")),
    "randint": ("upper",),
}
_TRIAL = ("codeId", "command", "environmentId", "environmentVariables", "distribution", "resources")


def sweep_job(spec: Mapping[str, Any], name: str, references: JobReferences, experiment: str) -> Body:
    """What a command job with the trial's command would be, turned into a sweep of it. A trial that is a
    component is named: the server writes it out."""
    component = isinstance(spec["trial"], str)
    trial: Mapping[str, Any] = {"command": ""} if component else spec["trial"]
    both = {**spec, **{key: value for key, value in trial.items() if value is not None}}
    both = {key: value for key, value in both.items() if key != "limits"}
    properties = command_job(both, name, references, experiment)["properties"]
    sweep: Body = {key: value for key, value in properties.items() if key not in _TRIAL}
    sweep["jobType"] = "Sweep"
    if component:
        sweep["trial"] = {"componentId": references.component_id}
        sweep |= {"resources": properties["resources"]} if properties.get("resources") else {}
    else:
        sweep["trial"] = {key: properties[key] for key in _TRIAL if properties.get(key)}
    sweep["searchSpace"] = {key: _distribution(value) for key, value in spec["search_space"].items()}
    objective = spec["objective"]
    sweep["objective"] = {
        "goal": _GOALS[objective["goal"]],
        "primaryMetric": objective["primary_metric"],
    }
    sweep["samplingAlgorithm"] = _sampling(spec.get("sampling_algorithm") or "random")
    limits = _limits(spec.get("limits") or {})
    if limits:
        sweep["limits"] = limits
    policy = spec.get("early_termination")
    if policy:
        fields = {wire: policy[key] for key, wire in _POLICY_FIELDS.items() if policy.get(key) is not None}
        sweep["earlyTermination"] = {"policyType": _POLICIES[policy["type"]], **fields}
    return {"properties": sweep}


def _sampling(given: str | Mapping[str, Any]) -> Body:
    if isinstance(given, str):
        return {"samplingAlgorithmType": _ALGORITHMS[given]}
    body: Body = {"samplingAlgorithmType": _ALGORITHMS[given["type"]]}
    body |= {key: given[key] for key in ("seed", "logbase") if given.get(key) is not None}
    if given.get("rule"):
        body["rule"] = given["rule"].capitalize()
    return body


def _limits(given: Mapping[str, Any]) -> Body:
    body: Body = {}
    for key, wire, text in (
        ("max_total_trials", "maxTotalTrials", int),
        ("max_concurrent_trials", "maxConcurrentTrials", int),
        ("timeout", "timeout", iso_duration),
        ("trial_timeout", "trialTimeout", iso_duration),
    ):
        if given.get(key) is not None:
            body[wire] = text(given[key])
    return {"jobLimitsType": "Sweep", **body} if body else {}


def _distribution(given: Any) -> Any:
    """One that is not known goes as it is: the server says what is wrong, and its place is found."""
    kind = str(given.get("type", "")) if isinstance(given, Mapping) else ""
    words = _ARGUMENTS.get(kind)
    if words is None:
        return given
    if kind == "choice":
        values = given.get("values")
        return [kind, [[_option(value) for value in values] if isinstance(values, list) else []]]
    return [kind, [given[word] for word in words if word in given]]


def _option(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _distribution(it) if isinstance(it, Mapping) else it for key, it in value.items()}
