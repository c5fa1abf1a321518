"""Batch endpoints as rows: default deployments, what is looked up, calls that are jobs, references in use."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tidemill.app.assets import assets
from tidemill.app.assets.asset_usage import users_of
from tidemill.app.assets.storage import account_for
from tidemill.app.computes import computes
from tidemill.app.people import access, principals
from tidemill.app.rows.asset_rows import CODES, COMPONENTS, ENVIRONMENTS, MODELS
from tidemill.app.rows.batch_rows import status_of
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.serving import batch_calls, batch_deployments, batch_endpoints
from tidemill.app.upkeep import workspace_deletion
from tidemill.app.views import asset_uses, batch_views, compute_views
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, NotOffered
from tidemill.domain.model import Caller, JobState
from tidemill.domain.plan import Place
from tidemill.domain.principals import PrincipalKind
from tidemill.environments.builder import EnvironmentBuilder

BLOBS = "azureml://datastores/workspaceblobstore/paths"
CONDA = "name: x\ndependencies: [python=3.11, pip, {pip: [numpy]}]\n"
FOLDER = {"a": {"jobInputType": "UriFolder", "uri": f"{BLOBS}/in"}}


@pytest.fixture
async def s(services, scope, owner, tmp_path):
    made = replace(services, environments=EnvironmentBuilder(tmp_path / "envs", services.clock.now))
    account = await made.store.read(lambda read: account_for(read, scope))
    for path, data in (
        ("code/score.py", b"x"),
        ("in/1.txt", b"1"),
        ("m/model.pkl", b"x"),
        ("ml/MLmodel", b"flavors:\n  sklearn: {}\n  python_function: {}\n"),
        ("ml/conda.yaml", CONDA.encode()),
    ):
        made.blobs.put_bytes(account, "azureml-blobstore", path, data)
    pipeline = {
        "name": "flow",
        "type": "pipeline",
        "inputs": {"x": {"type": "integer"}},
        "jobs": {
            "s": {
                "type": "command",
                "command": "echo ${{inputs.x}}",
                "environment": "azureml:env:1",
                "inputs": {"x": "${{parent.inputs.x}}"},
            }
        },
    }
    for kind, name, properties in (
        (MODELS, "digits", {"modelUri": f"{BLOBS}/m/model.pkl"}),
        (MODELS, "flowers", {"modelUri": f"{BLOBS}/ml", "modelType": "mlflow_model"}),
        (CODES, "code", {"codeUri": f"{BLOBS}/code"}),
        (ENVIRONMENTS, "env", {"condaFile": CONDA}),
        (COMPONENTS, "flow", {"componentSpec": pipeline}),
        (COMPONENTS, "step", {"componentSpec": {**pipeline["jobs"]["s"], "inputs": pipeline["inputs"]}}),
    ):
        await assets.put_version(made, owner, scope, kind, name, "1", {"properties": properties})
    size = {"vmSize": "Standard_DS1_v2", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 2}}
    compute = {"location": "x", "properties": {"computeType": "AmlCompute", "properties": size}}
    await computes.put(made, owner, scope, "cpu", compute)
    await batch_endpoints.put(made, owner, scope, "ep1", {"properties": {"authMode": "AADToken"}})
    return made


def body(**changes):
    properties = {
        "model": {"assetId": "azureml:digits:1", "referenceType": "Id"},
        "environmentId": "azureml:env:1",
        "codeConfiguration": {"codeId": "azureml:code:1", "scoringScript": "score.py"},
        "compute": "cpu",
        **changes,
    }
    return {"properties": {key: value for key, value in properties.items() if value is not None}}


def pipeline(component="flow:1", **settings):
    kind = {"deploymentConfigurationType": "PipelineComponent"}
    given = {"componentId": {"assetId": f"azureml:{component}"}, "settings": settings}
    return {"properties": {"deploymentConfiguration": {**kind, **given}}}


@pytest.fixture
def deploy(s, scope, owner):
    async def call(name="one", given=None, **changes):
        return (await batch_deployments.put(s, owner, scope, "ep1", name, given or body(**changes)))[0]

    return call


@pytest.fixture
def invoke(s, scope, owner):
    async def call(caller=owner, deployment="", request_id="", **given):
        asked = {"properties": {"inputData": FOLDER, **given}}
        return await batch_calls.invoke(s, caller, scope, "ep1", asked, deployment, request_id)

    return call


async def default(s, owner, scope, name):
    changes = {"properties": {"defaults": {"deploymentName": name}}}
    return await batch_endpoints.patch(s, owner, scope, "ep1", changes)


async def test_the_default_is_a_deployment_and_stays_until_it_is_changed(s, scope, owner, deploy, invoke):
    with pytest.raises(InvalidRequest, match=r"none at all\. Create one"):
        await invoke()
    with pytest.raises(NotFound, match="'one' was not found in batch endpoint 'ep1'"):
        await default(s, owner, scope, "one")
    await deploy()
    await default(s, owner, scope, "one")
    row, created = await batch_endpoints.put(s, owner, scope, "ep1", {"properties": {}, "tags": {"a": "b"}})
    assert not created
    assert decode_object(row.spec)["defaults"] == {"deploymentName": "one"}
    with pytest.raises(Conflict, match="'one' is the default of batch endpoint 'ep1'"):
        await batch_deployments.delete(s, owner, scope, "ep1", "one")
    await batch_endpoints.put(s, owner, scope, "ep1", {"properties": {"defaults": {}}})
    assert await batch_deployments.delete(s, owner, scope, "ep1", "one") is not None
    assert await batch_deployments.delete(s, owner, scope, "ep1", "one") is None


async def test_a_call_is_a_pipeline_of_the_caller_with_one_parallel_step(s, scope, owner, deploy, invoke):
    await deploy(resources={"instanceCount": 2}, miniBatchSize=3, environmentVariables={"A": "b"})
    job, created = await invoke(deployment="one", properties={"experimentName": "sums"})
    assert created
    spec, status = decode_object(job.spec), job_status(job.status)
    assert (job.state, spec["jobType"], spec["experimentName"]) == ("Running", "Pipeline", "sums")
    assert (status.plan.user, job.created_by) == (owner.oid, owner.name)
    step = spec["jobs"]["batchscoring"]
    assert step["resources"]["instance_count"] == 2
    assert (step["mini_batch_size"], step["error_threshold"]) == ("3", -1)
    assert step["retry_settings"] == {"max_retries": 3, "timeout": 30}
    assert step["task"]["append_file_name"] == "predictions.csv"
    assert step["inputs"]["model"]["uri"].endswith("/models/digits/versions/1")
    assert [row.uid for row in await batch_calls.jobs_of(s, scope, "ep1", limit=9)] == [job.uid]
    assert (await batch_views.detail(s, owner, scope, "ep1"))["running_jobs"] == 1


async def test_the_same_request_is_the_same_job_of_the_same_caller(s, scope, owner, deploy, invoke):
    await deploy()
    first, created = await invoke(deployment="one", request_id="r1")
    again, once_more = await invoke(deployment="one", request_id="r1")
    assert (created, once_more, again.uid) == (True, False, first.uid)
    assert (await invoke(deployment="one", request_id="r2"))[0].uid != first.uid
    assert len(await batch_calls.jobs_of(s, scope, "ep1", "one", limit=9)) == 2


async def test_what_a_job_needs_is_needed_here_too(s, scope, owner, deploy, invoke):
    await deploy()
    who = await principals.create(s, owner, PrincipalKind.USER, "eve")
    eve = Caller(who.oid, "eve", "User", principal=who)
    with pytest.raises(access.AccessDenied, match="jobs/write"):
        await invoke(eve, deployment="one")
    await invoke(deployment="one")
    for by, count in ((owner, 1), (eve, None)):
        shown = await batch_views.detail(s, by, scope, "ep1")
        of_one = await batch_views.deployment(s, by, scope, "ep1", "one")
        assert [found and len(found) for found in (shown["jobs"], of_one["jobs"])] == [count, count]


async def test_in_use_is_not_deleted(s, scope, owner, deploy, invoke):
    await deploy()
    job, _ = await invoke(deployment="one")
    with pytest.raises(Conflict, match=rf"has jobs that have not ended: {job.key.name} \(Running\)"):
        await batch_deployments.delete(s, owner, scope, "ep1", "one")
    with pytest.raises(Conflict, match="'ep1' has jobs that have not ended"):
        await batch_endpoints.delete(s, owner, scope, "ep1")
    await end(s, job)
    with pytest.raises(Conflict, match="has endpoints: ep1"):
        await workspace_deletion.delete(s, owner, scope)
    assert await batch_endpoints.delete(s, owner, scope, "ep1") is not None
    with pytest.raises(NotFound, match="There are none yet"):
        await batch_endpoints.get(s, scope, "ep1")


async def end(s, job):
    def change(tx):
        row = tx.by_uid(job.uid)
        tx.update(replace(row, state=JobState.COMPLETED.value))

    await s.store.write(change)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"compute": "cpx"}, NotFound, "Did you mean 'cpu'"),
        ({"model": {"assetId": "azureml:digit:1"}}, NotFound, "Did you mean 'digits'"),
        ({"environmentId": "azureml:enw:1"}, NotFound, "env"),
        ({"environmentId": None}, InvalidRequest, "only an mlflow_model brings its own"),
        ({"codeConfiguration": None}, InvalidRequest, "only an mlflow_model needs none"),
        (
            {"codeConfiguration": {"codeId": "azureml:code:1", "scoringScript": "scor.py"}},
            NotFound,
            "no file 'scor.py'. Did you mean 'score.py'",
        ),
        ({"outputFileName": "a/b"}, InvalidRequest, "name of a file"),
        ({"miniBatchSize": 0}, InvalidRequest, "miniBatchSize is 0"),
        ({"outputAction": "Both"}, InvalidRequest, "AppendRow, SummaryOnly"),
        ({"loggingLevel": "loud"}, InvalidRequest, "loggingLevel is 'loud'"),
    ],
)
async def test_what_is_missing_or_wrong_is_refused(s, scope, deploy, changes, error, words):
    with pytest.raises(error, match=words) as caught:
        await deploy(**changes)
    assert caught.value.target.startswith("properties.")
    assert not await batch_deployments.list_of(s, scope, "ep1")


async def test_an_mlflow_model_brings_its_environment_and_needs_no_script(s, scope, deploy, invoke):
    row = await deploy(
        model={"assetId": "azureml:flowers@latest"}, environmentId=None, codeConfiguration=None
    )
    status = status_of(row)
    assert (status.model_type, status.model_label) == ("mlflow_model", "flowers:1")
    job, _ = await invoke(deployment="one")
    step = job_status(job.status).pipeline.steps[0]
    assert '"command": "mlflow_model.py"' in step.body
    assert status.environment in step.body


async def test_a_pipeline_component_runs_with_the_calls_inputs(s, scope, owner, deploy, invoke):
    row = await deploy("flow", pipeline(default_compute="cpu"))
    literal = {"x": {"JobInputType": "Literal", "Value": "7"}}
    job, _ = await invoke(deployment="flow", InputData=literal, inputData=None)
    assert decode_object(job.spec)["componentId"] == "azureml:flow:1"
    assert job_status(job.status).pipeline.inputs[0].value == "7"
    assert (await batch_views.deployment(s, owner, scope, "ep1", row.key.name))["component"] == "flow:1"
    with pytest.raises(InvalidRequest, match="miniBatchSize means nothing to it"):
        await invoke(deployment="flow", inputData=literal, miniBatchSize=3)
    with pytest.raises(InvalidRequest, match="is of type command"):
        await deploy("bad", pipeline("step:1"))
    with pytest.raises(InvalidRequest, match=r"settings\.colour is not known"):
        await deploy("bad", pipeline(colour="red"))
    with pytest.raises(NotFound, match="Did you mean 'cpu'"):
        await deploy("bad", pipeline(default_compute="cpx"))


async def test_a_component_of_a_job_is_refused_by_name(s, scope, owner):
    spec = {"name": "x", "type": "pipeline", "sourceJobId": "ran-once", "jobs": {}}
    with pytest.raises(NotOffered, match="made of job 'ran-once'"):
        await assets.put_version(
            s, owner, scope, COMPONENTS, "x", "1", {"properties": {"componentSpec": spec}}
        )


async def test_other_auth_modes_identities_and_keys_are_refused(s, scope, owner):
    with pytest.raises(NotOffered, match="callers sign in"):
        await batch_endpoints.put(s, owner, scope, "ep2", {"properties": {"authMode": "Key"}})
    given = {"properties": {}, "identity": {"type": "UserAssigned", "userAssignedIdentities": {"x": {}}}}
    with pytest.raises(NotOffered, match="in the name of whoever calls"):
        await batch_endpoints.put(s, owner, scope, "ep2", given)
    with pytest.raises(InvalidRequest, match="has no keys"):
        await batch_endpoints.refuse_keys(s, scope, "ep1")


async def test_what_it_runs_is_in_use(s, scope, owner, deploy):
    await deploy(model={"assetId": "azureml:digits@latest"})
    for kind, name in ((MODELS, "digits"), (ENVIRONMENTS, "env"), (CODES, "code")):
        users = await s.store.read(lambda read, k=kind, n=name: users_of(read, scope, k, n, "1"))
        assert "batch deployment 'ep1/one'" in users
    await deploy("flow", pipeline())
    users = await s.store.read(lambda read: users_of(read, scope, COMPONENTS, "flow", "1"))
    assert users == ["batch deployment 'ep1/flow'"]


async def test_the_page_of_what_it_runs_names_it(s, scope, deploy):
    await deploy(model={"assetId": "azureml:digits@latest"})
    await deploy("flow", pipeline("flow@latest"))
    place = Place("", "", "")
    for find, name, users in (
        (partial(asset_uses.of_model, place=place), "digits", ["one"]),
        (partial(asset_uses.of_model, place=place), "flowers", []),
        (asset_uses.of_environment, "env", ["one"]),
        (asset_uses.of_component, "flow", ["flow"]),
        (asset_uses.of_component, "step", []),
    ):
        uses = await s.store.read(lambda read, f=find, n=name: f(read, scope, name=n, version="1"))
        assert [one["deployment"] for one in uses.deployments if one["kind"] == "batch"] == users


async def test_an_update_leaves_jobs_alone_and_is_told(s, scope, owner, deploy, invoke):
    row = await deploy()
    job, _ = await invoke(deployment="one")
    changes = {"properties": {"miniBatchSize": 4}, "tags": {"a": "b"}}
    changed = await batch_deployments.patch(s, owner, scope, "ep1", "one", changes)
    assert (changed.uid, decode_object(changed.spec)["miniBatchSize"]) == (row.uid, 4)
    assert decode_object(job.spec)["jobs"]["batchscoring"]["mini_batch_size"] == "10"
    same = await batch_deployments.patch(s, owner, scope, "ep1", "one", changes)
    assert same.revision == changed.revision
    told = await s.store.read(lambda read: [event.code for event in read.events(row.uid)])
    assert told == ["Created", "Called", "Updated"]


async def test_a_compute_names_the_deployments_whose_jobs_would_run_there(s, scope, deploy):
    await deploy("one", compute=f"{scope.arm_id}/computes/CPU")
    await deploy("two", compute=None)
    await deploy("three", pipeline(default_compute="azureml:cpu"))
    found = await compute_views.detail(s, scope, "cpu")
    assert found["deployments"] == ["ep1/one", "ep1/three"]
