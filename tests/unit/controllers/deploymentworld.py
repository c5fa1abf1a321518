"""Deployments over the store in memory and the fake engine: what their tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from world import OWNER, SCOPE, World

from tidemill.app.assets import assets
from tidemill.app.assets.storage import account_for
from tidemill.app.rows.asset_rows import CODES, ENVIRONMENTS, MODELS
from tidemill.app.rows.codec import job_status
from tidemill.app.rows.endpoint_rows import deployment_key
from tidemill.app.serving import endpoints, instances, online_deployments
from tidemill.controllers import serving
from tidemill.domain.model import JobState, Resource
from tidemill.domain.serving.routes import Backend, Table
from tidemill.engines.base import TaskKey, TaskSpec
from tidemill.engines.fake import Plan

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


async def until(w: World, condition: Callable[[], bool], what: str = "", timeout_s: float = 60.0) -> None:
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
