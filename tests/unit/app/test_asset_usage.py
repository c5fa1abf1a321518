"""An asset in use is not deleted, and whoever archives it is told who uses it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tidemill.app.assets import assets, package_usage
from tidemill.app.assets.asset_usage import references, users_of
from tidemill.app.rows.asset_rows import COMPONENTS, DATA, ENVIRONMENTS, MODELS
from tidemill.app.rows.codec import encode
from tidemill.app.rows.container_rows import group_key
from tidemill.app.upkeep import workspace_deletion
from tidemill.domain.containers.reading import read_group
from tidemill.domain.containers.status import GroupStatus
from tidemill.domain.errors import Conflict
from tidemill.domain.model import JobState, Key, Resource

WEB = "https://example.org/x.csv"


@pytest.fixture
def put(services, scope, owner):
    async def call(kind, name, version, **properties):
        body = {"properties": properties}
        return await assets.put_version(services, owner, scope, kind, name, version, body)

    return call


@pytest.fixture
def add(services, scope):
    async def call(type_: str, name: str, state: str, **spec: Any) -> Resource:
        row = Resource(services.ids.uid(), Key(scope, type_, name), state, spec=encode(spec))
        return await services.store.write(lambda tx: tx.insert(row))

    return call


@pytest.fixture
def users(services, scope):
    async def call(kind, name, version=""):
        return await services.store.read(lambda read: users_of(read, scope, kind, name, version))

    return call


def version_id(scope, kind, name, version):
    return f"{scope.arm_id}/{kind.type}/{name}/versions/{version}"


async def test_a_version_that_a_job_waits_with_is_not_deleted(services, scope, owner, put, add, users):
    for version in ("1", "2"):
        await put(ENVIRONMENTS, "env", version, image="i")
    row = await add(
        "jobs", "train", JobState.QUEUED, environmentId=version_id(scope, ENVIRONMENTS, "ENV", "1")
    )
    with pytest.raises(Conflict) as caught:
        await assets.delete_version(services, owner, scope, ENVIRONMENTS, "env", "1")
    assert caught.value.code == "AssetInUse"
    assert "Environment 'env' version '1' is in use by job 'train' (Queued)" in caught.value.message
    with pytest.raises(Conflict, match="'train'"):
        await assets.delete_container(services, owner, scope, ENVIRONMENTS, "env")
    assert await users(ENVIRONMENTS, "env", "2") == []
    assert await assets.delete_version(services, owner, scope, ENVIRONMENTS, "env", "2")
    await services.store.write(lambda tx: tx.delete(row))
    await add("jobs", "done", JobState.COMPLETED, environmentId=version_id(scope, ENVIRONMENTS, "env", "1"))
    assert await assets.delete_container(services, owner, scope, ENVIRONMENTS, "env")


async def test_a_label_uses_what_it_means_now(put, add, users):
    await put(DATA, "d", "1", dataUri=WEB, dataType="uri_file")
    await put(DATA, "d", "2", dataUri=WEB, dataType="uri_file")
    inputs = {"x": {"jobInputType": "uri_file", "uri": "azureml:d@latest"}}
    await add("schedules", "nightly", "Enabled", action={"jobDefinition": {"inputs": inputs}})
    assert await users(DATA, "d", "1") == []
    assert await users(DATA, "d", "2") == ["schedule 'nightly' (Enabled)"]


async def test_what_only_a_hash_names_is_told_by_who_uses_it(scope, put, add, users):
    await put(ENVIRONMENTS, "env", "1", image="i")
    step = {"type": "command", "command": "true", "environment": "azureml:env:1"}
    await put(COMPONENTS, "azureml_anonymous", "abc", isAnonymous=True, componentSpec=step)
    anonymous = version_id(scope, COMPONENTS, "azureml_anonymous", "abc")
    above = {"type": "pipeline", "jobs": {"a": {"type": "command", "componentId": anonymous}}}
    await put(COMPONENTS, "flow", "1", componentSpec=above)
    flow = version_id(scope, COMPONENTS, "flow", "1")
    await add("jobs", "run", JobState.RUNNING, jobs={"b": {"componentId": flow}})
    assert await users(ENVIRONMENTS, "env", "1") == ["component 'flow:1'", "job 'run' (Running)"]
    assert await users(COMPONENTS, "flow", "1") == ["job 'run' (Running)"]


async def test_what_a_model_was_made_from_is_kept(services, scope, owner, put, add):
    await put(DATA, "d", "1", dataUri=WEB, dataType="uri_file")
    await add("jobs", "train", JobState.COMPLETED, inputs={"x": {"uri": "azureml:d:1"}})
    await put(MODELS, "m", "1", modelUri="https://example.org/m")

    def made(tx):
        row = tx.get(Key(scope, "models/versions", "1", "m"))
        spec = b'{"modelUri":"https://example.org/m","jobName":"train"}'
        tx.update(assets.replace(row, spec=spec))

    await services.store.write(made)
    with pytest.raises(Conflict, match=r"model 'm:1' \(made from it by job 'train'\)"):
        await assets.delete_version(services, owner, scope, DATA, "d", "1")


async def test_archiving_says_who_goes_on(services, scope, put, add):
    row, _ = await put(MODELS, "m", "1", modelUri="https://example.org/m")
    await add(
        "jobs", "j", JobState.RUNNING, inputs={"m": {"jobInputType": "custom_model", "uri": "azureml:m:1"}}
    )
    assert await assets.note_of(services, MODELS, row) == ""
    row, _ = await put(MODELS, "m", "1", modelUri="https://example.org/m", isArchived=True)
    note = await assets.note_of(services, MODELS, row)
    assert "still in use by job 'j' (Running)" in note
    events = await services.store.read(lambda read: read.events(row.uid))
    assert [event.code for event in events] == ["Created", "Archived"]
    assert note in events[-1].message


async def test_of_two_writers_of_a_version_one_wins(services, scope, put):
    done = await asyncio.gather(
        *(put(ENVIRONMENTS, "env", "1", image=f"i{n % 2}") for n in range(6)), return_exceptions=True
    )
    made = [one for one in done if not isinstance(one, BaseException)]
    lost = [one for one in done if isinstance(one, BaseException)]
    assert sum(created for _, created in made) == 1
    assert len({row.uid for row, _ in made}) == 1
    assert len(lost) == 3
    for error in lost:
        assert isinstance(error, Conflict)
        assert "exists with another image" in error.message


def test_names_of_a_kind_are_not_those_of_another():
    spec = {
        "environment": "azureml:x:1",
        "inputs": {"a": {"type": "mlflow_model", "path": "azureml:y:2"}, "b": "azureml:z@latest"},
        "text": "azureml:",
        "uri": "azureml://datastores/d/paths/p",
    }
    found = {(one.kind.type, one.name, one.version, one.label) for one in references(spec)}
    assert found == {("environments", "x", "1", ""), ("models", "y", "2", ""), ("data", "z", "", "latest")}


@pytest.fixture
def group(services, scope):
    async def call(name: str, image: str, state: str = "Succeeded") -> None:
        requests = {"requests": {"cpu": 1, "memoryInGB": 1}}
        container = {"name": "c", "properties": {"image": image, "command": ["x"], "resources": requests}}
        spec, _ = read_group(name, {"properties": {"osType": "Linux", "containers": [container]}})
        key = group_key(replace(scope, workspace=""), name)
        row = Resource(services.ids.uid(), key, state, status=encode(GroupStatus(spec, (), "", "")))
        await services.store.write(lambda tx: tx.insert(row))

    return call


async def test_a_package_that_a_container_group_runs_is_not_deleted(services, scope, group, users):
    here = scope.workspace
    await group("web", f"package://{here}/Digits:1")
    await group("other", "package://elsewhere/digits:1")
    await group("going", f"package://{here}/digits:1", "Deleting")
    await group("plain", "host.example/digits:1")
    assert await users(ENVIRONMENTS, "digits", "1") == ["container group 'web'"]
    assert await users(ENVIRONMENTS, "digits") == ["container group 'web'"]
    assert await users(ENVIRONMENTS, "digits", "2") == []
    with pytest.raises(Conflict, match="Package digits:1 is in use by container group 'web'"):
        await services.store.read(lambda read: package_usage.refuse_if_used(read, scope, "digits", "1"))


async def test_a_workspace_whose_packages_container_groups_run_is_not_deleted(services, owner, scope, group):
    await group("other", "package://elsewhere/digits:1")
    await group("web", f"package://{scope.workspace.upper()}/digits:1")
    with pytest.raises(Conflict, match=r"in use by container group 'web'\. Delete what uses them") as refused:
        await workspace_deletion.delete(services, owner, scope)
    assert refused.value.code == "WorkspaceHasPackagesInUse"


async def test_an_environment_in_a_package_uses_it(scope, add, users, services):
    for name, image in (("digits", "package://digits:1"), ("tuned", f"package://{scope.workspace}/digits:1")):
        key = Key(scope, ENVIRONMENTS.versions, "1", parent=name)
        row = Resource(services.ids.uid(), key, "Succeeded", spec=encode({"image": image}))
        await services.store.write(lambda tx, row=row: tx.insert(row))
    assert await users(ENVIRONMENTS, "digits", "1") == ["environment 'tuned:1'"]
