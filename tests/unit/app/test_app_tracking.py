"""A job is a run: what MLflow sees of it, and who may write to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tidemill.app.jobs import endings, jobs
from tidemill.app.rows.codec import encode
from tidemill.app.services import Services
from tidemill.app.tracking import tracking, tracking_experiments, tracking_search
from tidemill.app.tracking.tracking_search import Search
from tidemill.domain.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tidemill.domain.jobspec import read_command_job
from tidemill.domain.model import Caller, JobState, Resource, Scope
from tidemill.domain.plan import JobPlan, JobProgress, JobStatus
from tidemill.store.tracking import Metric

SPEC = {"jobType": "Command", "command": "python a.py", "experimentName": "digits", "displayName": "shown"}


async def add_job(
    s: Services, scope: Scope, name: str, state: JobState = JobState.RUNNING, experiment: str = "digits"
) -> Resource:
    spec = {**SPEC, "experimentName": experiment, "environmentId": "x", "tags": {"team": "a"}}
    now = s.clock.now()
    status = JobStatus(
        JobPlan(read_command_job(name, spec), "uid", "cpu"),
        JobProgress(started_at=now + 5_000, ended_at=now + 9_000 if state.final else None),
    )
    row = Resource(
        s.ids.uid(),
        jobs.key_of(scope, name),
        state,
        encode(spec),
        encode(status),
        encode(spec["tags"]),
        created_at=now,
        created_by="ann",
    )
    return await s.store.write(lambda tx: tx.insert(row))


async def set_state(s: Services, row: Resource, state: JobState) -> None:
    await s.store.write(lambda tx: tx.update(replace(row, state=state)))


def token_of(row: Resource) -> Caller:
    return Caller(row.uid, row.key.name, "job", row.key.scope, row.key.name)


async def test_the_run_of_a_job_is_there_without_having_been_made(services, scope, owner):
    row = await add_job(services, scope, "Train-1")
    record = await tracking.get_run(services, scope, "Train-1")
    assert record.run.status == "RUNNING"
    assert record.run.start_at == row.created_at + 5_000
    assert (record.run.name, record.run.user) == ("shown", "ann")
    assert record.tags["mlflow.source.type"] == "JOB"
    assert record.tags["team"] == "a"
    experiment = await tracking_experiments.get_by_name(services, scope, "digits")
    assert record.run.experiment_id == experiment.id
    with pytest.raises(NotFound, match="neither a run nor a job"):
        await tracking.get_run(services, scope, "Train-2")


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (JobState.QUEUED, "RUNNING"),
        (JobState.COMPLETED, "FINISHED"),
        (JobState.FAILED, "FAILED"),
        (JobState.CANCELED, "KILLED"),
    ],
)
async def test_the_state_is_the_jobs(services, scope, owner, state, shown):
    row = await add_job(services, scope, "j", state)
    await tracking.update_run(services, owner, scope, "j", status="FINISHED", end_at=1)
    run = (await tracking.get_run(services, scope, "j")).run
    assert run.status == shown
    assert run.end_at == (row.created_at + 9_000 if state.final else None)


async def test_a_job_writes_to_its_own_runs_while_it_lives(services, scope, owner):
    row = await add_job(services, scope, "mine")
    await add_job(services, scope, "other")
    caller = token_of(row)
    await tracking.log(
        services, caller, scope, "mine", [Metric("loss", 0.5, 1, 1)], [("lr", "1")], [("a", "b")]
    )
    foreign = await tracking.create_run(services, owner, scope, "0")
    for run_id in ("other", foreign.run.id):
        with pytest.raises(Forbidden, match="not one of job 'mine'"):
            await tracking.log(services, caller, scope, run_id, [Metric("loss", 0.5, 1, 1)])
    with pytest.raises(Forbidden):
        await tracking.create_run(services, caller, scope, "0", tags=[("mlflow.parentRunId", "other")])
    child = await tracking.create_run(services, caller, scope, "0")
    assert child.tags["mlflow.parentRunId"] == "mine"
    grandchild = await tracking.create_run(
        services, caller, scope, "0", tags=[("mlflow.parentRunId", child.run.id)]
    )
    await tracking.log(services, caller, scope, grandchild.run.id, [Metric("loss", 0.5, 1, 1)])
    for key in ("tidemill.job", "tidemill.inputs"):
        with pytest.raises(InvalidRequest, match="set by the server"):
            await tracking.log(services, caller, scope, "mine", tags=[(key, "other")])
    with pytest.raises(Forbidden, match="may not delete experiments"):
        await tracking_experiments.delete(services, caller, scope, "0")

    await set_state(services, row, JobState.FAILED)
    with pytest.raises(Forbidden, match=r"has ended \(Failed\)"):
        await tracking.log(services, caller, scope, "mine", [Metric("loss", 0.5, 1, 2)])
    with pytest.raises(Forbidden, match="has ended"):
        await tracking.create_run(services, caller, scope, "0")
    assert (await tracking.get_run(services, scope, child.run.id)).run.status == "FAILED"
    await tracking.log(services, owner, scope, "mine", [Metric("loss", 0.1, 1, 3)])


async def test_a_deleted_job_takes_its_run_with_it(services, scope, owner):
    row = await add_job(services, scope, "j", JobState.COMPLETED)
    await tracking.log(services, owner, scope, "j", params=[("lr", "1")])
    with pytest.raises(Conflict, match="'1'"):
        await tracking.log(services, owner, scope, "j", params=[("lr", "2")])
    await endings.delete(services, owner, scope, "j")
    with pytest.raises(NotFound):
        await tracking.get_run(services, scope, "j")
    again = await add_job(services, scope, "j")
    with pytest.raises(Forbidden, match="does not exist any more"):
        await tracking.log(services, token_of(row), scope, "j", params=[("lr", "2")])
    await tracking.log(services, token_of(again), scope, "j", params=[("lr", "2")])


async def test_searches_find_jobs_that_never_logged(services, scope, owner):
    for number in range(3):
        await add_job(services, scope, f"j{number}", JobState.COMPLETED if number else JobState.RUNNING)
    found, token = await tracking_search.search_experiments(services, scope, Search())
    assert sorted(e.name for e in found) == ["Default", "digits"]
    assert token == ""
    digits = next(e.id for e in found if e.name == "digits")
    search = Search(filter="status = 'FINISHED'", limit=1)
    first, token = await tracking_search.search_runs(services, scope, [digits], search)
    second, end = await tracking_search.search_runs(services, scope, [digits], replace(search, token=token))
    assert [r.run.id for r in (*first, *second)] == ["j2", "j1"]
    assert end == ""
    by_name = Search(order_by=("run_id ASC",), limit=2)
    first, token = await tracking_search.search_runs(services, scope, [digits], by_name)
    second, _ = await tracking_search.search_runs(services, scope, [digits], replace(by_name, token=token))
    assert [r.run.id for r in (*first, *second)] == ["j0", "j1", "j2"]
    with pytest.raises(InvalidRequest, match="page token"):
        await tracking_search.search_runs(services, scope, [digits], Search(token="!!"))


async def test_a_deleted_experiment_stays_so_until_a_job_logs(services, scope, owner):
    await add_job(services, scope, "old")
    digits = (await tracking_experiments.get_by_name(services, scope, "digits")).id
    await tracking_experiments.delete(services, owner, scope, digits)
    row = await add_job(services, scope, "new")
    found, _ = await tracking_search.search_experiments(services, scope, Search())
    assert [e.name for e in found] == ["Default"]
    await tracking.log(services, token_of(row), scope, "new", [Metric("loss", 1.0, 1)])
    assert (await tracking_experiments.get(services, scope, digits)).lifecycle == "active"


async def test_renaming_a_jobs_run_renames_the_job(services, scope, owner):
    await add_job(services, scope, "j")
    await tracking.update_run(services, owner, scope, "j", name="better")
    assert (await tracking.get_run(services, scope, "j")).run.name == "better"
    assert b'"better"' in (await jobs.get(services, scope, "j")).spec


async def test_limits_are_named(services, scope, owner):
    await add_job(services, scope, "j")
    with pytest.raises(InvalidRequest, match="1001 metrics; it may have 1000"):
        await tracking.log(services, owner, scope, "j", [Metric("m", 1.0, i) for i in range(1001)])
    with pytest.raises(InvalidRequest, match="6001 characters"):
        await tracking.log(services, owner, scope, "j", params=[("p", "x" * 6001)])
    with pytest.raises(InvalidRequest, match="251 characters"):
        await tracking.log(services, owner, scope, "j", tags=[("k" * 251, "x")])


async def test_datasets_and_models_are_kept(services, scope, owner):
    await add_job(services, scope, "j")
    for digest in ("1", "2", "2"):
        await tracking.log_inputs(services, owner, scope, "j", [{"dataset": {"name": "d", "digest": digest}}])
    record = await tracking.get_run(services, scope, "j")
    assert [item["dataset"]["digest"] for item in tracking.listed(record, tracking.INPUTS_TAG)] == ["1", "2"]
    assert "tidemill.inputs" not in tracking.visible(record).tags
    await tracking.log_model(services, owner, scope, "j", '{"artifact_path": "model"}')
    record = await tracking.get_run(services, scope, "j")
    assert record.tags["mlflow.log-model.history"] == '[{"artifact_path":"model"}]'


async def test_a_workspaces_tracking_is_dropped(services, scope, owner):
    await add_job(services, scope, "j")
    await tracking.log(services, owner, scope, "j", [Metric("m", 1.0, 1)], [("p", "1")], [("t", "1")])
    default = await tracking_experiments.get(services, scope, "0")
    elsewhere = await services.tracking.create_experiment("/other", default)
    await services.tracking.delete_workspace(scope.arm_id.upper())
    assert await services.tracking.search_experiments(scope.arm_id, lifecycle=None) == ()
    assert await services.tracking.search_runs(scope.arm_id, lifecycle=None) == ()
    assert await services.tracking.search_experiments("/other") == (elsewhere,)
