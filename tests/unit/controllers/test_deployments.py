"""Deployments brought to instances and back, over the store in memory and the fake engine."""

# ruff: noqa: ASYNC240 - small files of the test's own

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from world import OWNER, SCOPE, World

from tidemill.app.assets import assets
from tidemill.app.assets.storage import account_for
from tidemill.app.computes import implicit_computes
from tidemill.app.people import access
from tidemill.app.rows.asset_rows import CODES, ENVIRONMENTS, MODELS
from tidemill.app.rows.codec import job_status
from tidemill.app.rows.endpoint_rows import deployment_key, deployment_status
from tidemill.app.serving import autoscale_settings, endpoints, instances, online_deployments
from tidemill.controllers import serving
from tidemill.domain.errors import InvalidRequest, Unauthenticated
from tidemill.domain.model import Caller, JobState, Resource
from tidemill.domain.serving.deciding import Phase
from tidemill.domain.serving.routes import Backend, Table
from tidemill.engines.base import TaskKey, TaskSpec
from tidemill.engines.fake import Plan
from tidemill.environments.built import BuiltEnvironment
from tidemill.environments.spec import EnvironmentSpec
from tidemill.store.api import ResourceQuery

pytestmark = pytest.mark.timeout(60)

BLOBS = "azureml://datastores/workspaceblobstore/paths"
CONDA = "name: x\ndependencies: [python=3.11, pip, {pip: [numpy]}]\n"
SERVES = Plan(after=None)
BROKEN = {"stage": "init", "type": "KeyError", "message": "'weights'", "traceback": "Traceback: 'weights'"}


@pytest.fixture
async def w(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    sources = tmp_path / "scoring"
    sources.mkdir()
    (sources / "main.py").write_text("")
    monkeypatch.setattr(serving, "SOURCES", sources)
    world.plans["$0"] = SERVES
    world.engine._plan = lambda spec: _plan(world, spec)  # pyright: ignore[reportPrivateUsage]
    world.environments.built.add("d" * 8)
    s = world.services
    account = await s.store.read(lambda read: account_for(read, SCOPE))
    for path in ("code/score.py", "m/model.pkl", "folder/a/b.txt"):
        s.blobs.put_bytes(account, "azureml-blobstore", path, b"x")
    for kind, name, properties in (
        (MODELS, "digits", {"modelUri": f"{BLOBS}/m/model.pkl"}),
        (MODELS, "folder", {"modelUri": f"{BLOBS}/folder"}),
        (CODES, "code", {"codeUri": f"{BLOBS}/code"}),
        (ENVIRONMENTS, "env", {"condaFile": CONDA}),
    ):
        await assets.put_version(s, OWNER, SCOPE, kind, name, "1", {"properties": properties})
    await endpoints.put(s, OWNER, SCOPE, "ep1", {"properties": {"authMode": "Key"}})
    return world


def _plan(world: World, spec: TaskSpec) -> Plan:
    """By the variable PLAN, as the deployment sets it."""
    if spec.service is None:
        return SERVES
    plan = world.plans.get(spec.env.get("PLAN", ""), SERVES)
    state = Path(spec.env["TIDEMILL_SERVING_STATE"])
    state.write_text(json.dumps({"state": "failed", "error": BROKEN if plan.exit_code == 3 else None}))
    return plan


async def deploy(w: World, name: str = "blue", count: int = 1, plan: str = "", **changes: Any) -> Resource:
    properties = {
        "model": "azureml:digits:1",
        "environmentId": "azureml:env:1",
        "codeConfiguration": {"codeId": "azureml:code:1", "scoringScript": "score.py"},
        "instanceType": "Standard_DS1_v2",
        "environmentVariables": {"PLAN": plan},
        **changes,
    }
    body = {"properties": properties, "sku": {"name": "Default", "capacity": count}}
    return (await online_deployments.put(w.services, OWNER, SCOPE, "ep1", name, body))[0]


async def until(w: World, condition: Callable[[], bool], what: str = "", timeout_s: float = 20.0) -> None:
    """Longer than elsewhere: some of it is asked once a second, on a machine that may be busy."""
    await w.until(condition, what, timeout_s)


def row_of(w: World, name: str = "blue") -> Resource | None:
    return w.read().get(deployment_key(SCOPE, "ep1", name))


def state_of(w: World, name: str = "blue") -> str:
    row = row_of(w, name)
    return row.state if row is not None else "gone"


def jobs_of(w: World, name: str = "blue") -> list[Resource]:
    row = row_of(w, name)
    assert row is not None
    return list(instances.of_deployment(w.read(), row))


def phases(w: World, name: str = "blue") -> list[str]:
    return [instances.phase_of(row, job_status(row.status)).value for row in jobs_of(w, name)]


def live(w: World, name: str = "blue") -> list[Resource]:
    return [row for row in jobs_of(w, name) if not JobState(row.state).final]


def routed(w: World, name: str = "blue") -> Backend:
    raw = (w.services.settings.home / "serving" / "routes.json").read_bytes()
    table = msgspec.json.decode(raw, type=Table)
    return next(one for one in table.endpoints[0].deployments if one.name == name)


async def settled(w: World, state: str = "Succeeded", name: str = "blue") -> None:
    await until(w, lambda: state_of(w, name) == state, f"{name} is {state}: it is {state_of(w, name)}")


def key_of(w: World, row: Resource) -> tuple[str, TaskKey]:
    (attempt,) = [one for one in w.read().attempts_of(row.uid) if one.ended_at is None]
    return attempt.nodes[0], TaskKey(attempt.id, 0)


async def test_deployed_it_answers_and_is_in_the_table(w: World) -> None:
    await w.start()
    await deploy(w, count=2)
    await settled(w)
    assert phases(w) == ["ready", "ready"]
    spec: TaskSpec = w.calls("start")[0][2]
    assert spec.service is not None
    root = Path(spec.cwd).parent
    assert spec.env["AZUREML_MODEL_DIR"] == f"{root}/azureml-models/digits/1"
    assert (root / "azureml-models/digits/1/model.pkl").read_bytes() == b"x"
    assert (root / "code/score.py").exists()
    assert spec.env["AZUREML_ENTRY_SCRIPT"] == "score.py"
    side = spec.env["TIDEMILL_SERVING_SIDE"]
    assert side.endswith("lib/python3.11/site-packages")
    assert side in spec.read_only
    targets = routed(w).instances
    assert {t.uid for t in targets} == {row.uid for row in jobs_of(w)}
    assert {(t.node, t.attempt) for t in targets} == {
        (one.nodes[0], one.id) for row in jobs_of(w) for one in w.read().attempts_of(row.uid)
    }
    assert len({i.node_id for i in w.intervals(kind="allocation")}) == 2


async def test_its_token_lasts_as_long_as_it_is_wanted_and_ends_with_it(w: World) -> None:
    issued: list[dict[str, Any]] = []
    w.services.tokens.issue_job = lambda **given: issued.append(given) or "t"  # type: ignore[method-assign]
    await w.start()
    await deploy(w)
    await settled(w)
    assert [given["ttl_s"] for given in issued] == [365 * 24 * 3600]
    (row,) = live(w)
    caller = Caller(row.uid, row.key.name, "job", SCOPE, row.key.name)
    await access.check_lives(w.services, caller)
    await online_deployments.delete(w.services, OWNER, SCOPE, "ep1", "blue")
    await until(w, lambda: state_of(w) == "gone")
    with pytest.raises(Unauthenticated):
        await access.check_lives(w.services, caller)


async def test_a_model_folder_keeps_its_name(w: World) -> None:
    await w.start()
    await deploy(w, model="azureml:folder:1")
    await settled(w)
    spec: TaskSpec = w.calls("start")[0][2]
    assert Path(spec.env["AZUREML_MODEL_DIR"], "folder/a/b.txt").read_bytes() == b"x"


async def test_a_failing_init_fails_the_deployment_with_its_traceback(w: World) -> None:
    w.plans["broken"] = Plan(exit_code=3, ready_after=None)
    await w.start()
    await deploy(w, plan="broken")
    await settled(w, "Failed")
    row = row_of(w)
    assert row is not None
    error = deployment_status(row).error
    assert error is not None
    assert error.code == "UserScriptFailed"
    assert "init() failed: KeyError: 'weights'" in error.message
    assert "Traceback: 'weights'" in error.message
    await until(w, lambda: not live(w), "its instance has ended")
    assert len(jobs_of(w)) == 1


async def test_an_environment_that_cannot_be_built_fails_it(w: World) -> None:
    w.environments.built.clear()
    w.environments.problem = InvalidRequest("No such package: numpyy.", "EnvironmentFailed")
    await w.start()
    await deploy(w)
    await settled(w, "Failed")
    row = row_of(w)
    assert row is not None
    error = deployment_status(row).error
    assert error is not None
    assert "No such package: numpyy." in error.message


async def test_without_its_side_environment_it_serves_and_says_so(w: World) -> None:
    build = w.environments.ensure

    def key(spec: EnvironmentSpec, image: object = None) -> str:
        return "s" * 8 if spec.name.startswith("scoring-") else "d" * 8

    async def ensure(spec: EnvironmentSpec, say: Callable[[str], None]) -> BuiltEnvironment:
        if spec.name.startswith("scoring-"):
            raise InvalidRequest("The index cannot be reached.")
        return await build(spec, say)

    w.environments.key, w.environments.ensure = key, ensure  # type: ignore[method-assign]
    w.environments.built.clear()
    await w.start()
    await deploy(w)
    await settled(w)
    assert "TIDEMILL_SERVING_SIDE" not in w.calls("start")[0][2].env
    said = "\n".join(event.message for event in w.read().events(jobs_of(w)[0].uid))
    assert "does without uvloop and orjson: The index cannot be reached." in said


async def test_an_update_starts_new_ones_first(w: World) -> None:
    w.plans["slow"] = Plan(after=None, ready_after=None)
    await w.start()
    await deploy(w)
    await settled(w)
    (old,) = jobs_of(w)
    await deploy(w, plan="slow")
    await until(w, lambda: len(live(w)) == 2)
    assert [t.uid for t in routed(w).instances] == [old.uid]
    assert state_of(w) == "Updating"
    await deploy(w, plan="other")
    await settled(w)
    await until(w, lambda: len(live(w)) == 1, "only the newest one is left")
    assert old.uid not in {row.uid for row in live(w)}
    assert [t.uid for t in routed(w).instances] == [row.uid for row in live(w)]
    status = deployment_status(row_of(w))  # type: ignore[arg-type]
    assert (status.serving, status.serving_generation) == (None, 3)


async def test_a_failed_update_leaves_the_old_instance_serving(w: World) -> None:
    w.plans["broken"] = Plan(exit_code=3, ready_after=None)
    await w.start()
    await deploy(w)
    await settled(w)
    (old,) = jobs_of(w)
    await deploy(w, plan="broken")
    await settled(w, "Failed")
    await until(w, lambda: [row.uid for row in live(w)] == [old.uid])
    assert [t.uid for t in routed(w).instances] == [old.uid]
    # And what serves is replaced when it is lost.
    node, _ = key_of(w, old)
    w.engine.lose(node)
    await until(w, lambda: [t.node for t in routed(w).instances] not in ([node], []), "on another node")
    assert state_of(w) == "Failed"


async def test_scaled_it_gets_more_and_fewer(w: World) -> None:
    await w.start()
    await deploy(w)
    await settled(w)
    (first,) = jobs_of(w)
    await deploy(w, count=3)
    await settled(w)
    assert len(routed(w).instances) == 3
    await deploy(w, count=1)
    await settled(w)
    await until(w, lambda: len(live(w)) == 1)
    assert [row.uid for row in live(w)] == [first.uid]


async def test_a_killed_instance_is_out_of_rotation_until_it_is_back(w: World) -> None:
    await w.start()
    await deploy(w)
    await settled(w)
    (row,) = jobs_of(w)
    node, key = key_of(w, row)
    w.engine.nodes[node].tasks[key].plan = Plan(after=None, ready_after=60_000_000)
    w.engine.finish(node, key, None, signal=9)
    await until(w, lambda: routed(w).instances == ())
    assert phases(w) == [Phase.UNREADY.value]
    w.clock.ahead += 61_000_000
    await until(w, lambda: len(routed(w).instances) == 1, "it is back")
    assert [row.uid for row in jobs_of(w)] == [row.uid]
    assert "InstanceRestarting" in w.codes(row.uid)


async def test_a_lost_node_is_replaced(w: World) -> None:
    await w.start()
    await deploy(w)
    await settled(w)
    (target,) = routed(w).instances
    w.engine.lose(target.node)
    await until(w, lambda: len(routed(w).instances) == 1 and routed(w).instances[0].node != target.node)
    assert state_of(w) == "Succeeded"


async def test_deleted_nothing_is_left(w: World) -> None:
    await w.start()
    await deploy(w, count=2)
    await settled(w)
    uids = [row.uid for row in jobs_of(w)]
    await online_deployments.delete(w.services, OWNER, SCOPE, "ep1", "blue")
    await until(w, lambda: row_of(w) is None, "the deployment is gone")
    await until(w, lambda: not w.nodes() and not w.read().count(ResourceQuery(implicit_computes.TYPE)))
    assert not any(w.read().by_uid(uid) for uid in uids)
    await until(w, lambda: not w.engine.nodes)
    assert all(interval.ended_at for interval in w.intervals())


@pytest.mark.parametrize("moment", range(0, 12))
async def test_killed_at_any_instant_it_goes_on_the_same(w: World, moment: int) -> None:
    """Killed after so many commits, and again in an update: nothing twice, nothing lost."""
    await w.start()
    await deploy(w, count=2)
    await _after_commits(w, moment)
    await w.restart()
    await settled(w)
    assert phases(w) == ["ready", "ready"]
    await deploy(w, count=2, plan="other")
    await _after_commits(w, moment)
    await w.restart()
    await settled(w)
    await until(w, lambda: len(live(w)) == 2 and len(routed(w).instances) == 2)
    assert len(jobs_of(w)) == 4
    starts = [call[2].attempt_id for call in w.calls("start")]
    assert len(set(starts)) == 4


async def _after_commits(w: World, count: int) -> None:
    seen = 0

    def counted(_: object) -> None:
        nonlocal seen
        seen += 1

    w.store.on_commit(counted)
    await until(w, lambda: seen >= count or state_of(w) == "Succeeded")


async def test_restarted_it_tells_nothing_twice(w: World) -> None:
    await w.start()
    await deploy(w)
    await settled(w)
    (row,) = jobs_of(w)
    node, key = key_of(w, row)
    w.engine.finish(node, key, None, signal=9)
    await until(w, lambda: w.codes(row.uid).count("InstanceReady") == 2)
    before = w.codes(row.uid)
    await w.restart()
    await until(w, lambda: w.running is not None and not w.running.attempts._background)  # pyright: ignore
    await until(w, lambda: len(routed(w).instances) == 1)
    assert w.codes(row.uid) == before


def to_zero(**more: Any) -> dict[str, Any]:
    settings = {"minInstances": 0, "maxInstances": 4, "idleTimeBeforeScaleToZero": "PT10S", **more}
    return {"scaleSettings": {"scaleType": "TargetUtilization", "pollingInterval": "PT1S", **settings}}


def report(w: World, held: int = 0, in_flight: int = 0, last_at: int = 0) -> None:
    """As the gateway would say it."""
    row = row_of(w)
    assert row is not None
    assert w.running is not None
    measured = {row.uid: {"in_flight": in_flight, "last_at": last_at}}
    w.running.routing.on_report({"held": {row.uid: held} if held else {}, "deployments": measured})


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
