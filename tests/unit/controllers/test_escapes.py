"""Names that a user gives never become a path outside the attempt's directory, nor a loop without an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from world import FOREVER, SCOPE, World

from tidemill.app.rows.codec import job_status
from tidemill.app.workspaces import workspaces
from tidemill.controllers import attempts, staging
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.jobspec import read_command_job
from tidemill.domain.model import JobState

NAMES = ["../x", "..", ".", "/etc", "a/b", "", "a\0b", "-a", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_inputs_and_outputs_are_names(name: str):
    for kind, value in (
        ("inputs", {"jobInputType": "uri_folder", "uri": "azureml:x:1"}),
        ("outputs", {"jobOutputType": "uri_folder"}),
    ):
        with pytest.raises(InvalidRequest, match="is not valid"):
            read_command_job("j", {"command": "true", kind: {name: value}})


def test_usual_names_are_accepted():
    job = read_command_job(
        "j",
        {"command": "true", "outputs": {"default": {}, "my_out-2": {}, "a.b": {}}, "inputs": {"_x": None}},
    )
    assert [output.name for output in job.outputs] == ["default", "my_out-2", "a.b"]


async def test_an_output_leads_nowhere_else(world: World, tmp_path: Path):
    await world.start()
    with pytest.raises(InvalidRequest):
        await world.submit("a", outputs={"../../../../../escaped": {"jobOutputType": "uri_folder"}})
    assert not (tmp_path / "escaped").exists()


async def test_a_file_whose_name_no_disk_holds_fails_the_job_with_the_reason(world: World):
    await world.start()
    row = await workspaces.get(world.services, SCOPE)
    account = workspaces.account_of(row)
    name = "data/" + "n" * 300
    world.services.blobs.ensure_container(account, "azureml-blobstore")
    world.services.blobs.put_bytes(account, "azureml-blobstore", name, b"x")
    uri = f"azureml://datastores/workspaceblobstore/paths/{name}"
    await world.submit("a", inputs={"x": {"jobInputType": "uri_file", "uri": uri}})
    ended = await world.ended("a")
    assert ended.state == JobState.FAILED
    error = job_status(ended.status).progress.error
    assert error is not None
    assert "no file system can hold it" in error.message


async def test_what_cannot_be_stored_for_an_unknown_reason_ends_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def collect(*given: object, **more: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(staging, "collect", collect)
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.001)
    await world.start()
    await world.submit("a")
    ended = await world.ended("a")
    assert ended.state == JobState.FAILED
    error = job_status(ended.status).progress.error
    assert error is not None
    assert "a fault of ours" in error.message


async def test_what_cannot_be_staged_for_an_unknown_reason_ends_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def stage(*given: object, **more: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(staging, "stage", stage)
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.001)
    await world.start()
    await world.submit("a")
    ended = await world.ended("a")
    assert ended.state == JobState.FAILED
    error = job_status(ended.status).progress.error
    assert error is not None
    assert "a fault of ours" in error.message
    assert len(world.attempts("a")) == 3
    assert not world.calls("start")


async def test_what_may_run_from_before_a_restart_is_stopped_before_that(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.plans["a.1"] = FOREVER
    await world.start()
    await world.submit("a")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    original, faults = staging.stage, [RuntimeError("a fault of ours")] * attempts.MOST_FAULTS

    async def stage(*given: Any, **more: Any) -> Any:
        if faults:
            raise faults.pop()
        return await original(*given, **more)

    monkeypatch.setattr(staging, "stage", stage)
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.001)
    await world.restart()
    ended = await world.ended("a")
    assert ended.state == JobState.COMPLETED
    assert len(world.attempts("a")) == 2
    assert len(world.calls("stop")) == 1
