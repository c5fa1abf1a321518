"""Why an online endpoint does not answer as it should: sentences, the weightiest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.app.services import Services
from tidemill.app.views import endpoint_views
from tidemill.domain.model import Scope
from tidemill.domain.serving.deciding import Phase
from tidemill.domain.serving.model import DEFAULT_SCALE, Provisioning
from tidemill.domain.units import plural


async def why(s: Services, scope: Scope, name: str, deployment: str = "") -> dict[str, Any]:
    """-> {name, state, sentence, reasons: [{deployment, code, message}], next: [command]}. `deployment`: only
    this one. Raises NotFound."""
    found = await endpoint_views.detail(s, scope, name)
    if deployment:
        one = await endpoint_views.deployment(s, scope, name, deployment)
        found["deployments"] = [one]
    reasons = [*([] if deployment else _of_endpoint(found)), *_of_all(found["deployments"])]
    return {
        "name": found["name"],
        "state": found["state"],
        "sentence": reasons[0]["message"] if reasons else _well(found),
        "reasons": reasons,
        "next": _next(found, reasons),
    }


def _of_endpoint(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    name = found["name"]
    if found["state"] == Provisioning.DELETING:
        return [_reason("", "Deleting", f"Endpoint {name} is being deleted.")]
    if not found["deployments"]:
        return [_reason("", "NoDeployment", f"Endpoint {name} has no deployment: nothing can answer.")]
    if not found["traffic"]:
        text = f"No deployment of {name} has traffic: only requests that name one are answered."
        return [_reason("", "NoTraffic", text)]
    return []


def _of_all(deployments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those with traffic first."""
    ranked = sorted(deployments, key=lambda one: -one["traffic"])
    return [reason for one in ranked for reason in _of_deployment(one)]


def _of_deployment(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    name, reasons = one["name"], list[dict[str, Any]]()
    if one["error"] is not None:
        kept = " (its older instances go on to answer)" if one["serves_older"] else ""
        message = f"Deployment {name}{kept}: {one['error']['message'].rstrip()}"
        reasons.append(_reason(name, one["error"]["code"], message))
    elif one["state"] not in (Provisioning.SUCCEEDED, Provisioning.FAILED):
        reasons.append(_reason(name, one["state"], f"Deployment {name} is {one['state']}."))
    ready = sum(instance["phase"] == Phase.READY for instance in one["instances"])
    if _answers_nothing(one):
        text = (
            f"Deployment {name} has no instances (instance_count 0), and no scale settings, so no request "
            f"wakes it. Give it one: tidemill deployment update --endpoint-name {one['endpoint']} "
            f"--name {name} --instance-count 1"
        )
        reasons.append(_reason(name, "NoInstances", text))
    elif one["state"] == Provisioning.SUCCEEDED and ready < one["instance_count"] and not one["asleep"]:
        text = f"Deployment {name}: {ready} of {plural(one['instance_count'], 'instance')} are ready."
        reasons.append(_reason(name, "InstancesMissing", text))
    reasons += _of_requests(one, ready)
    for instance in one["instances"]:
        if instance["waits"]:
            text = f"Instance {instance['name']} is {instance['phase']}: {instance['waits']}"
            reasons.append(_reason(name, "InstanceWaits", text))
        elif instance["error"] and one["error"] is None:
            text = f"Instance {instance['name']} ended: {instance['error']}"
            reasons.append(_reason(name, "InstanceEnded", text))
    return reasons


def _answers_nothing(one: Mapping[str, Any]) -> bool:
    """It is to have no instances, and no request wakes it."""
    return not one["instance_count"] and one["scale"] == DEFAULT_SCALE and one["autoscale"] is None


def _of_requests(one: Mapping[str, Any], ready: int) -> list[dict[str, Any]]:
    """What the gateway says."""
    name, metrics, most = one["name"], one["metrics"], one["max_concurrent"]
    reasons: list[dict[str, Any]] = []
    if metrics is None:
        return reasons
    wakes = one["error"] is None or one["serves_older"]
    if metrics["held"] and wakes and not _answers_nothing(one):
        text = f"Deployment {name} wakes up: {plural(metrics['held'], 'request')} held meanwhile."
        reasons.append(_reason(name, "Waking", text))
    if ready and metrics["in_flight"] >= ready * most:
        flying, wait = plural(metrics["in_flight"], "request"), f"{one['max_queue_wait_s']:g} s"
        text = (
            f"Deployment {name} is at its limit: {flying} in flight, at most {ready * most} at once with "
            f"{plural(ready, 'instance')}. Others wait {wait}, then get 429. More instances, or a higher "
            "max_concurrent_requests_per_instance, would help."
        )
        reasons.append(_reason(name, "AtItsLimit", text))
    return reasons


def _reason(deployment: str, code: str, message: str) -> dict[str, Any]:
    return {"deployment": deployment or None, "code": code, "message": message}


def _well(found: Mapping[str, Any]) -> str:
    ready = sum(
        instance["phase"] == Phase.READY for one in found["deployments"] for instance in one["instances"]
    )
    text = f"Nothing is wrong with {found['name']}: {plural(ready, 'instance')} ready."
    return " ".join([text, *(_sleeps(one) for one in found["deployments"] if one["asleep"])])


def _sleeps(one: Mapping[str, Any]) -> str:
    if any(instance["phase"] == Phase.PARKED for instance in one["instances"]):
        how = "an instance is parked (no node, no cost), and goes on with the next request"
    else:
        how = "the next request starts an instance"
    return f"Deployment {one['name']} sleeps: {how}."


def _next(found: Mapping[str, Any], reasons: Sequence[Mapping[str, Any]]) -> list[str]:
    codes, name = {reason["code"] for reason in reasons}, found["name"]
    told: list[str] = []
    if "NoDeployment" in codes:
        told.append(f"tidemill deployment create --endpoint-name {name} --file deployment.yml")
    if "NoTraffic" in codes:
        first = found["deployments"][0]["name"]
        told.append(f"tidemill endpoint traffic --name {name} {first}=100")
    failed = next((one for one in found["deployments"] if one["error"] is not None), None)
    if failed is not None:
        told.append(f"tidemill deployment logs --endpoint-name {name} --name {failed['name']}")
    return told
