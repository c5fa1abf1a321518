"""Deployments brought to instances and back, over the store in memory and the fake engine."""

# ruff: noqa: ASYNC240 - small files of the test's own

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import deploymentworld
import pytest
from deploymentworld import deploy, jobs_of, key_of, live, phases, routed, row_of, settled, state_of, until
from world import OWNER, SCOPE, World

from tidemill.app.computes import implicit_computes
from tidemill.app.people import access
from tidemill.app.rows.endpoint_rows import deployment_status
from tidemill.app.serving import online_deployments
from tidemill.domain.errors import InvalidRequest, Unauthenticated
from tidemill.domain.model import Caller
from tidemill.domain.serving.deciding import Phase
from tidemill.engines.base import TaskSpec
from tidemill.engines.fake import Plan
from tidemill.environments.built import BuiltEnvironment
from tidemill.environments.spec import EnvironmentSpec
from tidemill.store.api import ResourceQuery

w = deploymentworld.w


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


async def test_rows_stay_until_what_they_stored_is_removed(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nobody would find it again."""
    await w.start()
    await deploy(w)
    await settled(w)
    remove, refused = w.services.blobs.delete_prefix, []

    def once_refused(*where: str) -> int:
        if refused:
            return remove(*where)
        refused.extend(row.uid for row in jobs_of(w))
        raise OSError("no")

    monkeypatch.setattr("tidemill.controllers.carrying.AGAIN_S", 0.01)
    monkeypatch.setattr(w.services.blobs, "delete_prefix", once_refused)
    await online_deployments.delete(w.services, OWNER, SCOPE, "ep1", "blue")
    await until(w, lambda: row_of(w) is None, "the deployment is gone")
    assert len(refused) == 1


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
