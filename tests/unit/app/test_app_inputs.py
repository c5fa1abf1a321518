"""A job's inputs and outputs, resolved to places and checked to exist."""

from __future__ import annotations

import pytest

from tidemill.app.assets import assets, datastores, inputs
from tidemill.app.assets.storage import account_for
from tidemill.app.rows.asset_rows import DATA, MODELS
from tidemill.domain.errors import InvalidRequest, NotFound, NotOffered
from tidemill.domain.jobspec import JobInput, JobOutput

BLOBS = "azureml://datastores/workspaceblobstore/paths"


@pytest.fixture
async def account(services, scope):
    return await services.store.read(lambda read: account_for(read, scope))


@pytest.fixture
def resolve(services, scope, account):
    async def call(value, kind="uri_file", mode="ro_mount"):
        item = JobInput("d", kind, value, mode)
        return await services.store.read(lambda r: inputs.resolve_input(services, r, scope, account, item))

    return call


@pytest.fixture
def place_output(services, scope, account):
    async def call(**output):
        item = JobOutput("o", **{"type": "uri_folder", **output})
        return await services.store.read(
            lambda r: inputs.resolve_output(services, r, scope, account, "j1", item)
        )

    return call


async def test_every_form_leads_to_the_same_bytes(services, scope, owner, account, resolve):
    await assets.put_version(
        services,
        owner,
        scope,
        DATA,
        "d1",
        "1",
        {"properties": {"dataUri": f"{BLOBS}/a/x.csv", "dataType": "uri_file"}},
    )
    long = f"azureml://subscriptions/{scope.subscription}/resourcegroups/{scope.group}/workspaces/{scope.workspace}"
    forms = [
        "azureml:d1:1",
        "azureml:d1@latest",
        f"{scope.arm_id}/data/d1/versions/1",
        f"{BLOBS}/a/x.csv",
        f"{long}/datastores/workspaceblobstore/paths/a/x.csv",
        f"https://localhost:8445/{account}.blob.core.windows.net/azureml-blobstore/a/x.csv",
    ]
    places = [(await resolve(form)).place for form in forms]
    assert {(p.account, p.container, p.path) for p in places} == {(account, "azureml-blobstore", "a/x.csv")}
    assert (await resolve("azureml:d1:1", mode="direct")).uri.endswith("/paths/a/x.csv")


async def test_models_are_found_among_models(services, scope, owner, resolve):
    await assets.put_version(
        services, owner, scope, MODELS, "m", "1", {"properties": {"modelUri": f"{BLOBS}/m/model.pkl"}}
    )
    assert (await resolve("azureml:m:1", "custom_model")).place.path == "m/model.pkl"
    with pytest.raises(NotFound, match="Data asset 'm'"):
        await resolve("azureml:m:1", "uri_file")


async def test_literals_and_web_addresses(resolve):
    assert (await resolve("0.1", "literal")).literal == "0.1"
    web = await resolve("https://example.org/x.csv")
    assert web.url == "https://example.org/x.csv"
    assert web.place is None
    assert (await resolve("https://example.org/dir", "uri_folder", "direct")).uri == "https://example.org/dir"
    with pytest.raises(InvalidRequest, match="holds one file"):
        await resolve("https://example.org/dir", "uri_folder")


async def test_a_folder_does_not_take_in_its_neighbour(resolve):
    assert (await resolve(f"{BLOBS}/a/dir", "uri_folder")).place.path == "a/dir/"


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("azureml:nope:1", NotFound, "'nope'"),
        ("azureml://datastores/nope/paths/x", NotFound, "workspaceblobstore"),
        ("azureml://datastores/theirs/paths/x", NotOffered, "does not reach other storage"),
        ("wasbs://c@a.blob.core.windows.net/x", NotOffered, "wasbs://"),
        ("./x.csv", InvalidRequest, "a path on some machine"),
        ("azureml://registries/r/data/d/versions/1", NotFound, "Registry 'r'"),
        (
            "https://localhost:8445/tmother.blob.core.windows.net/c/x",
            NotFound,
            "which is not that of workspace",
        ),
        (
            "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/p",
            InvalidRequest,
            "another workspace",
        ),
        ("azureml://jobs/nope/outputs/o", NotFound, "Job 'nope'"),
    ],
)
async def test_refused_naming_what_is_wrong(services, scope, owner, resolve, value, error, words):
    theirs = {"datastoreType": "AzureBlob", "accountName": "acct", "containerName": "c"}
    await datastores.put(services, owner, scope, "theirs", {"properties": theirs})
    with pytest.raises(error) as caught:
        await resolve(value)
    assert words in caught.value.message


async def test_evaluated_modes_are_refused_by_name(resolve):
    with pytest.raises(NotOffered, match="eval_mount"):
        await resolve(f"{BLOBS}/x", mode="eval_mount")


async def test_what_is_not_there_is_refused_with_what_lies_beside(services, account, resolve):
    services.blobs.put_bytes(account, "azureml-blobstore", "data/train.csv", b"1")
    services.blobs.put_bytes(account, "azureml-blobstore", "data/more/x.csv", b"1")

    async def check(path, kind):
        await inputs.check_inputs_exist(services, [await resolve(f"{BLOBS}/{path}", kind)])

    await check("data/train.csv", "uri_file")
    await check("data", "uri_folder")
    await check("data/train.csv", "custom_model")
    with pytest.raises(NotFound) as caught:
        await check("data/tran.csv", "uri_file")
    assert "data/train.csv" in caught.value.message
    assert "data/more/" in caught.value.message
    with pytest.raises(NotFound, match=r"it is a folder. Use type uri_folder"):
        await check("data", "uri_file")
    with pytest.raises(NotFound, match=r"it is a file. Use type uri_file"):
        await check("data/train.csv", "uri_folder")


async def test_outputs_have_a_place_of_their_own(account, place_output):
    folder = await place_output()
    assert folder.place.path == "azureml/j1/o/"
    assert folder.place.container == "azureml-blobstore"
    assert folder.uri.endswith("/datastores/workspaceblobstore/paths/azureml/j1/o/")
    file = await place_output(type="uri_file")
    assert file.place.path == "azureml/j1/o/o"
    given = await place_output(
        uri="azureml://datastores/${{default_datastore}}/paths/r/${{name}}/${{output_name}}"
    )
    assert given.place.path == "r/j1/o/"
    artifacts = await place_output(uri="azureml://datastores/workspaceartifactstore/ExperimentRun/dcid.j1")
    assert (artifacts.place.container, artifacts.place.path) == ("azureml", "ExperimentRun/dcid.j1/")
    with pytest.raises(InvalidRequest, match="cannot be written to"):
        await place_output(uri="https://example.org/x")
