"""Deployments that sleep, wake, and get more and fewer instances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import deploymentworld
from deploymentworld import deploy, jobs_of, live, report, routed, row_of, settled, state_of, to_zero, until
from world import OWNER, SCOPE, World

from tidemill.app.serving import autoscale_settings, endpoints
from tidemill.engines.fake import Plan
from tidemill.store.api import ResourceQuery

w = deploymentworld.w


async def test_it_sleeps_when_nobody_asks_and_wakes_with_the_first_request(w: World) -> None:
    await w.start()
    await deploy(w, **to_zero())
    await settled(w)
    assert routed(w).wake
    report(w, last_at=w.clock.now())
    w.clock.ahead += 11_000_000
    await until(w, lambda: not live(w) and not w.nodes(), "it sleeps, and holds no node")
    assert state_of(w) == "Succeeded"
    assert (routed(w).instances, routed(w).wake) == ((), True)
    assert all(interval.ended_at for interval in w.intervals())
    report(w, held=1)
    await until(w, lambda: len(routed(w).instances) == 1, "it is awake")
    report(w)
    row = row_of(w)
    assert row is not None
    said = [event.message for event in w.read().events(row.uid) if event.code == "Scaled"]
    assert said == [
        "0 instances from now on: nothing was asked of it for 10 s.",
        "1 instance from now on: 1 request came while it slept.",
    ]


async def test_an_update_of_one_that_sleeps_is_tried_out(w: World) -> None:
    w.plans["broken"] = Plan(exit_code=3, ready_after=None)
    await w.start()
    await deploy(w, **to_zero())
    await settled(w)
    w.clock.ahead += 11_000_000
    await until(w, lambda: not live(w))
    await deploy(w, plan="broken", **to_zero())
    await settled(w, "Failed")
    await until(w, lambda: not live(w))
    report(w, held=1)
    await until(w, lambda: len(routed(w).instances) == 1, "the older plan still answers")


async def test_more_requests_more_instances_and_their_cpu_counts(w: World) -> None:
    await w.start()
    settings = to_zero(minInstances=1, targetRequestsPerInstance=5)
    await deploy(w, **settings)
    await settled(w)
    report(w, in_flight=14)
    await until(w, lambda: len(routed(w).instances) == 3, "3 instances")
    report(w, in_flight=1)
    await until(w, lambda: len(w.running.scaling._watched) == 1)  # pyright: ignore
    assert len(live(w)) == 3


async def test_of_ended_instances_only_the_newest_stay(w: World) -> None:
    await w.start()
    await deploy(w)
    await settled(w)
    for number in range(10):
        await deploy(w, plan=f"plan{number}")
        await settled(w)
    await until(w, lambda: len(live(w)) == 1)
    await until(w, lambda: len(jobs_of(w)) == 9, "eight that have ended, and the one that serves")


async def test_a_restart_while_it_sleeps_leaves_it_asleep(w: World) -> None:
    await w.start()
    await deploy(w, **to_zero())
    await settled(w)
    w.clock.ahead += 11_000_000
    await until(w, lambda: not live(w))
    await w.restart()
    await until(w, lambda: bool(w.running and w.running.scaling._watched))  # pyright: ignore
    assert not live(w)
    report(w, held=2)
    await until(w, lambda: len(routed(w).instances) == 2, "2 requests, 1 at once per instance")


def setting(rules: list[dict[str, Any]] | None = None, low: int = 1, high: int = 4) -> dict[str, Any]:
    target = f"{SCOPE.arm_id}/onlineEndpoints/ep1/deployments/blue"
    capacity = {"minimum": str(low), "maximum": str(high), "default": str(low)}
    return {
        "properties": {
            "targetResourceUri": target,
            "enabled": True,
            "profiles": [{"name": "always", "capacity": capacity, "rules": rules or []}],
        }
    }


async def test_an_autoscale_setting_bounds_and_scales(w: World) -> None:
    group = replace(SCOPE, workspace="")
    await w.start()
    await deploy(w)
    await settled(w)
    await autoscale_settings.put(w.services, OWNER, group, "a", setting(low=2))
    await until(w, lambda: len(routed(w).instances) == 2, "as many as the setting has at least")
    rule = {
        "metricTrigger": {
            "metricName": "RequestsPerMinute",
            "operator": "GreaterThan",
            "threshold": 100,
            "timeGrain": "PT1S",
            "timeWindow": "PT1S",
        },
        "scaleAction": {"direction": "Increase", "value": "1", "cooldown": "PT1M"},
    }
    row = row_of(w)
    assert row is not None
    assert w.running is not None
    w.running.routing.on_report({"deployments": {row.uid: {"rate": 5.0, "in_flight": 1}}})
    w.clock.ahead += 120_000_000
    await autoscale_settings.put(w.services, OWNER, group, "a", setting([rule], low=2))
    await until(w, lambda: len(routed(w).instances) == 3, "one more by the rule")
    said = [event.message for event in w.read().events(row.uid) if event.code == "Scaled"]
    assert said[-1] == "3 instances from now on: RequestsPerMinute is 300 (> 100)."
    await autoscale_settings.delete(w.services, OWNER, group, "a")
    await until(w, lambda: len(routed(w).instances) == 1, "as many as the deployment asks for")


async def test_an_endpoint_goes_with_a_deployment_that_sleeps(w: World) -> None:
    await w.start()
    await deploy(w, **to_zero())
    await settled(w)
    w.clock.ahead += 11_000_000
    await until(w, lambda: not live(w))
    await endpoints.delete(w.services, OWNER, SCOPE, "ep1")
    await until(w, lambda: row_of(w) is None)
    await until(w, lambda: not w.read().count(ResourceQuery("onlineEndpoints")), "the endpoint is gone")
    assert not w.read().count(ResourceQuery("jobs"))
