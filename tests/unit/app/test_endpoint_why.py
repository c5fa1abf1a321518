"""Why an endpoint does not answer as it should: what the views say, in sentences, the weightiest first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidemill.app.serving_metrics import Traffic, read_report
from tidemill.app.views import endpoint_views, endpoint_why


def deployment(name: str = "blue", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "endpoint": "ep",
        "state": "Succeeded",
        "traffic": 100,
        "instance_count": 1,
        "instances": [instance()],
        "scale": "Default",
        "autoscale": None,
        "asleep": False,
        "error": None,
        "serves_older": False,
        "metrics": None,
        "max_concurrent": 2,
        "max_queue_wait_s": 0.5,
        **changes,
    }


def instance(phase: str = "ready", **changes: Any) -> dict[str, Any]:
    return {"name": "ep.blue-1", "phase": phase, "waits": "", "error": None, **changes}


def endpoint(*deployments: dict[str, Any], **changes: Any) -> dict[str, Any]:
    shares = {one["name"]: one["traffic"] for one in deployments if one["traffic"]}
    return {
        "name": "ep",
        "state": "Succeeded",
        "traffic": shares,
        "deployments": list(deployments),
        **changes,
    }


@pytest.fixture
def ask(services, scope, monkeypatch):
    async def call(found: dict[str, Any]) -> dict[str, Any]:
        async def detail(*_: Any) -> dict[str, Any]:
            return found

        monkeypatch.setattr(endpoint_views, "detail", detail)
        return await endpoint_why.why(services, scope, "ep")

    return call


async def test_nothing_is_wrong(ask):
    found = await ask(endpoint(deployment()))
    assert (found["sentence"], found["reasons"]) == ("Nothing is wrong with ep: 1 instance ready.", [])


async def test_one_that_sleeps_lacks_nothing(ask):
    found = await ask(endpoint(deployment(asleep=True, instances=[instance("parked")])))
    assert found["reasons"] == []
    assert found["sentence"] == (
        "Nothing is wrong with ep: 0 instances ready. Deployment blue sleeps: an instance is parked "
        "(no node, no cost), and goes on with the next request."
    )
    found = await ask(endpoint(deployment(asleep=True, instances=[])))
    assert found["sentence"].endswith("Deployment blue sleeps: the next request starts an instance.")


async def test_none_without_scale_settings_is_no_sleep(ask):
    held = {"held": 1, "in_flight": 0}
    (only,) = (await ask(endpoint(deployment(instance_count=0, instances=[], metrics=held))))["reasons"]
    assert only["code"] == "NoInstances"
    assert only["message"].endswith("deployment update --endpoint-name ep --name blue --instance-count 1")


async def test_what_is_missing_comes_with_the_command_that_mends_it(ask):
    found = await ask(endpoint())
    assert found["sentence"] == "Endpoint ep has no deployment: nothing can answer."
    assert found["next"] == ["tidemill deployment create --endpoint-name ep --file deployment.yml"]
    found = await ask(endpoint(deployment(traffic=0)))
    assert found["next"] == ["tidemill endpoint traffic --name ep blue=100"]


async def test_a_failed_update_and_an_instance_that_waits(ask):
    failed = deployment(
        state="Failed", error={"code": "X", "message": "init() failed\nTraceback"}, serves_older=True
    )
    waits = deployment(
        "green", state="Creating", traffic=0, instances=[instance("starting", waits="No room.")]
    )
    found = await ask(endpoint(waits, failed))
    assert [reason["message"] for reason in found["reasons"]] == [
        "Deployment blue (its older instances go on to answer): init() failed\nTraceback",
        "Deployment green is Creating.",
        "Instance ep.blue-1 is starting: No room.",
    ]
    assert found["next"] == ["tidemill deployment logs --endpoint-name ep --name blue"]


async def test_what_the_gateway_says(ask):
    busy = Traffic(in_flight=2).as_dict()
    found = await ask(endpoint(deployment(metrics=busy)))
    assert "at its limit: 2 requests in flight, at most 2 at once with 1 instance" in found["sentence"]
    asleep = deployment(metrics=Traffic(held=3).as_dict(), instances=[instance("starting")])
    codes = [reason["code"] for reason in (await ask(endpoint(asleep)))["reasons"]]
    assert codes == ["InstancesMissing", "Waking"]


async def test_a_failed_update_of_what_answered_nothing_wakes_nothing(ask):
    error = {"code": "X", "message": "init() failed"}
    one = deployment(state="Failed", error=error, instances=[], metrics=Traffic(held=1).as_dict())
    assert [reason["message"] for reason in (await ask(endpoint(one)))["reasons"]] == [
        "Deployment blue: init() failed"
    ]


@pytest.mark.parametrize(
    ("count", "scale", "answers"),
    [(1, "Default", True), (0, "Default", False), (0, "TargetUtilization", True)],
)
def test_what_was_deployed_before_answers_if_it_has_instances_or_wakes(count: int, scale: str, answers: bool):
    older: Any = SimpleNamespace(spec=SimpleNamespace(instances=count))
    status: Any = SimpleNamespace(serving=older)
    assert endpoint_views._serves_older(status, scale, None) is answers
    assert endpoint_views._serves_older(status, scale, cast(Any, object())) is True
    status.serving = None
    assert endpoint_views._serves_older(status, scale, None) is False


def test_a_report_is_read_as_far_as_it_is_one():
    report = {
        "deployments": {"d1": {"rate": 2.5, "in_flight": 1, "p50_ms": None, "errors": "x"}, "d2": 7},
        "held": {"d1": 2, "d3": 1},
    }
    found = read_report(report)
    assert found["d1"] == Traffic(rate=2.5, in_flight=1, held=2)
    assert (found["d2"], found["d3"]) == (Traffic(), Traffic(held=1))
    assert read_report({"deployments": []}) == {}
