"""Versions and their containers, over all kinds of assets."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.app.assets import assets
from tidemill.app.assets.assets import AssetQuery
from tidemill.app.rows.asset_rows import CODES, DATA, ENVIRONMENTS, MODELS, find_version
from tidemill.app.rows.codec import decode_object, encode
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import JobState, Key, Resource
from tidemill.domain.plan import JobPlan, JobStatus, Place, PlannedOutput

LONG = "azureml://subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/tidemill/workspaces/main"


def body(**properties: Any) -> dict[str, Any]:
    return {"properties": properties}


@pytest.fixture
def put(services, scope, owner):
    async def call(kind, name, version, **properties):
        return await assets.put_version(services, owner, scope, kind, name, version, body(**properties))

    return call


async def test_a_version_is_what_it_was_made_as(services, put):
    row, created = await put(ENVIRONMENTS, "env", "1", image="python:3.11", condaFile="a: 1", novel=[1])
    assert created
    same, created = await put(ENVIRONMENTS, "env", "1", image="python:3.11", condaFile="a: 1")
    assert not created
    assert same.revision == row.revision
    assert decode_object(same.spec)["novel"] == [1]
    for other in (
        {"image": "python:3.12", "condaFile": "a: 1"},
        {"image": "python:3.11"},
        {"build": {"x": 1}},
    ):
        with pytest.raises(Conflict) as caught:
            await put(ENVIRONMENTS, "env", "1", **other)
        assert "'env' version '1'" in caught.value.message
    with pytest.raises(Conflict, match="novel"):
        await put(ENVIRONMENTS, "env", "1", image="python:3.11", condaFile="a: 1", novel=[2])


async def test_what_may_change_of_a_version(services, put):
    first, _ = await put(ENVIRONMENTS, "env", "1", image="i", tags={"a": "1"}, description="d")
    row, _ = await put(ENVIRONMENTS, "env", "1", image="i", tags={"b": "2"}, isArchived=True)
    assert row.uid == first.uid
    assert row.archived
    assert row.created_at == first.created_at
    spec = decode_object(row.spec)
    assert spec["tags"] == {"b": "2"}
    assert spec["description"] == "d"
    assert spec["isArchived"] is True


async def test_containers_follow_their_versions(services, scope, owner, put):
    for version in ("1", "7", "beta"):
        await put(ENVIRONMENTS, "env", version, image="i")
    container = await assets.get_container(services, scope, ENVIRONMENTS, "env")
    assert decode_object(container.status) == {"latestVersion": "beta", "nextVersion": "8"}
    assert await assets.delete_version(services, owner, scope, ENVIRONMENTS, "env", "beta")
    container = await assets.get_container(services, scope, ENVIRONMENTS, "env")
    assert decode_object(container.status) == {"latestVersion": "7", "nextVersion": "8"}
    for version in ("1", "7"):
        await assets.delete_version(services, owner, scope, ENVIRONMENTS, "env", version)
    assert not await assets.delete_version(services, owner, scope, ENVIRONMENTS, "env", "7")
    with pytest.raises(NotFound):
        await assets.get_container(services, scope, ENVIRONMENTS, "env")


async def test_latest_and_what_is_said_when_nothing_is_found(services, scope, put):
    for version in ("1", "2", "3"):
        await put(ENVIRONMENTS, "sklearn", version, image="i", isArchived=version == "3")

    async def find(name, version="", label=""):
        return await services.store.read(lambda r: find_version(r, scope, ENVIRONMENTS, name, version, label))

    assert (await find("sklearn", label="latest")).key.name == "2"
    with pytest.raises(NotFound, match="There are: 1, 2, 3"):
        await find("sklearn", "9")
    with pytest.raises(NotFound, match="Did you mean 'sklearn'"):
        await find("sklern", "1")
    with pytest.raises(NotFound, match="latest"):
        await find("sklearn", label="newest")


async def test_lists_leave_out_what_is_archived_or_anonymous(services, scope, owner, put):
    for version in ("1", "2", "3"):
        await put(ENVIRONMENTS, "env", version, image="i", isArchived=version == "2")
    await put(ENVIRONMENTS, "CliV2AnonymousEnvironment", "ab12", image="i", isAnonymous=True)
    await put(ENVIRONMENTS, "old", "1", image="i")
    await assets.put_container(services, owner, scope, ENVIRONMENTS, "old", body(isArchived=True))

    async def versions(**query):
        rows = await assets.list_versions(services, scope, ENVIRONMENTS, "env", AssetQuery(**query))
        return [row.key.name for row in rows]

    async def names(**query):
        rows = await assets.list_containers(services, scope, ENVIRONMENTS, AssetQuery(**query))
        return [row.key.name for row in rows]

    assert await versions() == ["3", "1"]
    assert await versions(archived=True) == ["2"]
    assert await versions(archived=None, ascending=True) == ["1", "2", "3"]
    assert await versions(limit=1) == ["3"]
    assert await names() == ["env"]
    assert await names(archived=None) == ["old", "env"]


async def test_data_is_a_full_address_with_a_slash_for_folders(services, put):
    row, _ = await put(
        DATA, "d", "1", dataUri="azureml://datastores/workspaceblobstore/paths/x/dir", dataType="uri_folder"
    )
    assert decode_object(row.spec)["dataUri"] == f"{LONG}/datastores/workspaceblobstore/paths/x/dir/"
    row, _ = await put(
        DATA, "f", "1", dataUri="azureml://datastores/workspaceblobstore/paths/x.csv", dataType="uri_file"
    )
    assert decode_object(row.spec)["dataUri"].endswith("/paths/x.csv")
    row, _ = await put(DATA, "web", "1", dataUri="https://example.org/x.csv", dataType="uri_file")
    assert decode_object(row.spec)["dataUri"] == "https://example.org/x.csv"
    with pytest.raises(Conflict, match="is of type uri_file"):
        await put(DATA, "f", "2", dataUri="https://example.org/x/", dataType="uri_folder")


@pytest.mark.parametrize(
    ("kind", "properties", "error", "words"),
    [
        (DATA, {"dataUri": "./x", "dataType": "uri_file"}, InvalidRequest, "a path on some machine"),
        (DATA, {"dataType": "uri_file"}, InvalidRequest, "has no dataUri"),
        (
            DATA,
            {"dataUri": "https://x/y", "dataType": "csv"},
            InvalidRequest,
            "uri_file, uri_folder, mltable",
        ),
        (
            DATA,
            {"dataUri": "azureml://datastores/nope/paths/x", "dataType": "uri_file"},
            NotFound,
            "workspaceblobstore",
        ),
        (
            DATA,
            {"dataUri": "azureml://jobs/j1/outputs/o", "dataType": "uri_folder"},
            NotFound,
            "There are none yet",
        ),
        (MODELS, {"modelUri": "https://x/y", "modelType": "pickle"}, InvalidRequest, "custom_model"),
        (MODELS, {}, InvalidRequest, "has no modelUri"),
        (ENVIRONMENTS, {"tags": {}}, InvalidRequest, "is empty"),
        (CODES, {}, InvalidRequest, "has no codeUri"),
    ],
)
async def test_refused_with_the_reason(services, scope, put, kind, properties, error, words):
    with pytest.raises(error) as caught:
        await put(kind, "a", "1", **properties)
    assert words in caught.value.message
    assert not await assets.list_versions(services, scope, kind, "a", AssetQuery(archived=None))


def job_row(scope, state: JobState) -> Resource:
    place = Place("acct", "azureml-blobstore", "azureml/j1/model/")
    output = PlannedOutput(
        "model",
        "mlflow_model",
        "rw_mount",
        place,
        f"{LONG}/datastores/workspaceblobstore/paths/azureml/j1/model/",
    )
    plan = JobPlan(
        CommandJob("true"),
        "c",
        "c",
        outputs=(output,),
        artifacts=Place("acct", "azureml", "ExperimentRun/dcid.j1/"),
    )
    return Resource("job-1", Key(scope, "jobs", "j1"), state, status=encode(JobStatus(plan)))


async def test_a_model_of_a_jobs_output_points_at_its_bytes(services, scope, put):
    row = await services.store.write(lambda tx: tx.insert(job_row(scope, JobState.RUNNING)))
    with pytest.raises(Conflict, match=r"j1.*is Running"):
        await put(MODELS, "m", "1", modelUri="azureml://jobs/j1/outputs/model/paths/inner/")
    await services.store.write(lambda tx: (tx.delete(row), tx.insert(job_row(scope, JobState.COMPLETED))))
    made, _ = await put(
        MODELS, "m", "1", modelUri="azureml://jobs/j1/outputs/model/paths/inner/", modelType="mlflow_model"
    )
    spec = decode_object(made.spec)
    assert spec["modelUri"] == f"{LONG}/datastores/workspaceblobstore/paths/azureml/j1/model/inner/"
    assert spec["flavors"] == {}
    assert spec["jobName"] == "j1"
    artifacts, _ = await put(MODELS, "m", "2", modelUri="runs:/j1/sk")
    assert decode_object(artifacts.spec)["modelUri"] == (
        f"{LONG}/datastores/workspaceartifactstore/paths/ExperimentRun/dcid.j1/sk"
    )
    # What a client sends back after a GET is the same version.
    same, created = await put(MODELS, "m", "1", **{**spec, "flavors": {}, "provisioningState": "Succeeded"})
    assert not created
    assert same.revision == made.revision
    with pytest.raises(NotFound, match=r"'artifacts', 'model'|model"):
        await put(MODELS, "m", "3", modelUri="azureml://jobs/j1/outputs/modl")


async def test_code_is_found_by_its_content_in_the_whole_workspace(services, scope, put):
    hashed = {"hash_sha256": "ab" * 32, "hash_version": 202208}
    uri = "https://localhost:8445/tm1.blob.core.windows.net/c1/src"
    await put(CODES, "uuid-1", "1", codeUri=uri, isAnonymous=True, properties=hashed)

    async def by_hash(digest, version="202208"):
        query = AssetQuery(hash=digest, hash_version=version)
        return [r.key.parent for r in await assets.list_versions(services, scope, CODES, "another", query)]

    assert await by_hash("ab" * 32) == ["uuid-1"]
    assert await by_hash("cd" * 32) == []
    assert await by_hash("ab" * 32, "202601") == []


async def test_a_build_context_gets_back_the_account_the_client_lost(services, put):
    given = "https://localhost:8445/azureml-blobstore/LocalUpload/h/ctx/"
    row, _ = await put(ENVIRONMENTS, "b", "1", build={"contextUri": given, "dockerfilePath": "Dockerfile"})
    build = decode_object(row.spec)["build"]
    assert build["dockerfilePath"] == "Dockerfile"
    assert build["contextUri"].endswith(".blob.core.windows.net/azureml-blobstore/LocalUpload/h/ctx/")
    again, created = await put(
        ENVIRONMENTS, "b", "1", build={"contextUri": given, "dockerfilePath": "Dockerfile"}
    )
    assert not created
    assert again.revision == row.revision


async def test_each_upload_has_a_container_of_its_own(services, scope):
    first = await assets.start_pending_upload(services, scope, CODES, "c", "1")
    second = await assets.start_pending_upload(services, scope, CODES, "c", "1")
    assert first.container != second.container
    assert first.account == second.account
    assert services.blobs.container(first.account, first.container) is not None


async def test_what_differs_is_shown_however_far_behind_it_stands(services, scope, owner):
    long = "azureml://datastores/workspaceblobstore/paths/" + "deep/" * 40
    body = {"properties": {"dataUri": f"{long}a.csv", "dataType": "uri_file"}}
    await assets.put_version(services, owner, scope, DATA, "far", "1", body)
    body["properties"]["dataUri"] = f"{long}b.csv"
    with pytest.raises(Conflict) as caught:
        await assets.put_version(services, owner, scope, DATA, "far", "1", body)
    assert "deep/a.csv', not …" in caught.value.message
    assert "deep/b.csv'." in caught.value.message
