"""Online endpoints and deployments as rows: keys, traffic, updates, deletion, references in use."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from tidemill.app.assets import assets, registries, sharing
from tidemill.app.assets.asset_usage import users_of
from tidemill.app.assets.storage import account_for
from tidemill.app.computes import implicit_computes
from tidemill.app.people import principals
from tidemill.app.rows.asset_rows import CODES, ENVIRONMENTS, MODELS
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.endpoint_rows import deployment_status, endpoint_status
from tidemill.app.rows.sealed import resealed
from tidemill.app.serving import autoscale_settings, endpoints, online_deployments
from tidemill.app.upkeep import workspace_deletion
from tidemill.app.workspaces import workspaces
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.model import Caller, JobState, Key, Resource, Scope
from tidemill.domain.principals import PrincipalKind
from tidemill.environments.builder import EnvironmentBuilder
from tidemill.identity.secrets import SecretBox
from tidemill.store.api import ResourceQuery

BLOBS = "azureml://datastores/workspaceblobstore/paths"
CONDA = "name: x\ndependencies: [python=3.11, pip, {pip: [numpy]}]\n"


@pytest.fixture
async def s(services, scope, owner, tmp_path):
    made = replace(services, environments=EnvironmentBuilder(tmp_path / "envs", services.clock.now))
    account = await made.store.read(lambda read: account_for(read, scope))

    def write(path, data=b"x"):
        made.blobs.put_bytes(account, "azureml-blobstore", path, data)

    write("code/score.py")
    write("m/model.pkl")
    write("ml/MLmodel", b"flavors:\n  sklearn: {}\n  python_function: {}\n")
    write("ml/conda.yaml", CONDA.encode())
    for kind, name, properties in (
        (MODELS, "digits", {"modelUri": f"{BLOBS}/m/model.pkl"}),
        (MODELS, "flowers", {"modelUri": f"{BLOBS}/ml", "modelType": "mlflow_model"}),
        (MODELS, "gone", {"modelUri": f"{BLOBS}/none"}),
        (CODES, "code", {"codeUri": f"{BLOBS}/code"}),
        (ENVIRONMENTS, "env", {"condaFile": CONDA}),
    ):
        await assets.put_version(made, owner, scope, kind, name, "1", {"properties": properties})
    return made


def body(capacity=1, **changes):
    properties = {
        "model": "azureml:digits:1",
        "environmentId": "azureml:env:1",
        "codeConfiguration": {"codeId": "azureml:code:1", "scoringScript": "score.py"},
        "instanceType": "standard_ds3_v2",
        **changes,
    }
    return {"properties": properties, "sku": {"name": "Default", "capacity": capacity}}


@pytest.fixture
def deploy(s, scope, owner):
    async def call(name="blue", capacity=1, ready=True, **changes):
        row, _ = await online_deployments.put(s, owner, scope, "ep1", name, body(capacity, **changes))
        return await serving(s, row) if ready else row

    return call


async def serving(s, row):
    """As the deployments controller leaves a row whose instances answer."""
    status = deployment_status(row)
    done = replace(status, serving=None, serving_generation=status.generation)
    return await s.store.write(
        lambda tx: tx.update(replace(tx.by_uid(row.uid), state="Succeeded", status=encode(done)))
    )


@pytest.fixture
async def endpoint(s, scope, owner):
    row, created = await endpoints.put(s, owner, scope, "ep1", {"properties": {"authMode": "Key"}})
    assert created
    return row


async def traffic(s, owner, scope, mirror=None, **shares):
    given = {"traffic": shares, "mirrorTraffic": mirror or {}}
    return (await endpoints.put(s, owner, scope, "ep1", {"properties": given}))[0]


async def test_an_endpoint_has_keys_and_an_identity_of_its_own(s, scope, owner, endpoint):
    keys = await endpoints.keys(s, scope, "EP1")
    status = endpoint_status(endpoint)
    assert status.digests == tuple(
        hashlib.sha256(key.encode()).hexdigest() for key in (keys.primary, keys.secondary)
    )
    stored = endpoint.spec + endpoint.status
    assert keys.primary.encode() not in stored
    assert keys.secondary.encode() not in stored
    assert status.identity["type"] == "SystemAssigned"
    with pytest.raises(Conflict, match="which it keeps"):
        await endpoints.put(s, owner, scope, "ep1", {"properties": {}, "identity": {"type": "None"}})


async def test_keys_are_regenerated_one_at_a_time_also_with_the_sdks_old_value(s, scope, owner, endpoint):
    before = await endpoints.keys(s, scope, "ep1")
    sent = {"keyType": "Primary", "keyValue": before.primary}
    await endpoints.regenerate_key(s, owner, scope, "ep1", sent)
    after = await endpoints.keys(s, scope, "ep1")
    assert after.primary != before.primary
    assert after.secondary == before.secondary
    await endpoints.regenerate_key(s, owner, scope, "ep1", {"keyType": "secondary", "keyValue": "k" * 40})
    assert (await endpoints.keys(s, scope, "ep1")).secondary == "k" * 40
    with pytest.raises(InvalidRequest, match="32 to 256") as error:
        await endpoints.regenerate_key(s, owner, scope, "ep1", {"keyType": "primary", "keyValue": "guess"})
    assert "guess" not in str(error.value)


async def test_a_new_master_key_leaves_the_rest_of_the_status(s, endpoint):
    box = SecretBox({"00000002": b"n" * 32, "00000001": b"k" * 32})
    row = resealed(box, endpoint)
    assert row is not None
    assert endpoint_status(row).digests == endpoint_status(endpoint).digests
    assert endpoint_status(row).identity == endpoint_status(endpoint).identity
    assert endpoint_status(row).secrets != endpoint_status(endpoint).secrets


async def test_an_endpoint_with_tokens_has_no_keys(s, scope, owner, endpoint):
    await endpoints.patch(s, owner, scope, "ep1", {"properties": {"authMode": "AMLToken"}})
    with pytest.raises(InvalidRequest, match="auth mode AMLToken, so it has no keys"):
        await endpoints.keys(s, scope, "ep1")


async def test_a_deployment_is_resolved_when_it_is_put(s, scope, endpoint, deploy):
    row = await deploy(ready=False)
    plan = deployment_status(row).plan
    assert (row.state, row.parent_uid, row.ref) == ("Creating", endpoint.uid, plan.compute_uid)
    assert (plan.model.name, plan.model.version, plan.model.place.path) == ("digits", "1", "m/model.pkl")
    assert plan.code.path.startswith("code")
    assert plan.environment.digest
    assert plan.acts_as == endpoint_status(endpoint).identity["principalId"]
    spec = decode_object(row.spec)
    assert spec["instanceType"] == "Standard_DS3_v2"
    assert spec["scaleSettings"] == {"scaleType": "Default"}
    compute = await s.store.read(lambda read: implicit_computes.of_owner(read, row))
    assert compute.uid == row.ref
    assert decode_object(compute.spec)["label"] == "ep1.blue"


async def test_an_mlflow_model_brings_its_environment(s, endpoint, deploy):
    row = await deploy(
        model="azureml:flowers@latest", environmentId=None, codeConfiguration=None, ready=False
    )
    plan = deployment_status(row).plan
    assert plan.model.flavors == ("sklearn", "python_function")
    assert plan.model.place.path == "ml/"
    assert plan.environment.conda == CONDA


@pytest.mark.parametrize(
    ("changes", "error", "said", "target"),
    [
        ({"model": "azureml:digit:1"}, NotFound, "Did you mean 'digits'", "model"),
        ({"model": "azureml:gone:1"}, NotFound, "nothing is stored", "model"),
        ({"environmentId": None}, InvalidRequest, "has no environment", "environmentId"),
        ({"codeConfiguration": None, "model": None}, InvalidRequest, "there is nothing to serve", "model"),
        ({"environmentId": "azureml:evn:1"}, NotFound, "was not found", "environmentId"),
        ({"instanceType": "Standard_DS3"}, InvalidRequest, "Standard_DS3", "instanceType"),
        (
            {"codeConfiguration": {"codeId": "azureml:cod:1", "scoringScript": "x"}},
            NotFound,
            "Did you mean 'code'",
            "codeConfiguration.codeId",
        ),
    ],
)
async def test_what_is_missing_is_refused_and_nothing_is_stored(
    s, scope, endpoint, deploy, changes, error, said, target
):
    with pytest.raises(error, match=said) as refused:
        await deploy(**changes)
    assert refused.value.target == f"properties.{target}"
    assert not await online_deployments.list_of(s, scope, "ep1")
    assert not await s.store.read(lambda read: read.find(ResourceQuery(implicit_computes.TYPE, scope)))


async def test_a_deployment_needs_its_endpoint(s, scope, deploy):
    with pytest.raises(NotFound, match="Online endpoint 'ep1' was not found"):
        await deploy()


async def test_traffic_goes_only_to_what_serves(s, scope, owner, endpoint, deploy):
    await deploy("blue")
    await deploy("green", ready=False)
    row = await traffic(s, owner, scope, BLUE=100)
    assert decode_object(row.spec)["traffic"] == {"blue": 100}
    with pytest.raises(Conflict, match="'green' is Creating and serves nothing yet"):
        await traffic(s, owner, scope, blue=90, green=10)
    with pytest.raises(InvalidRequest, match="sums to 90"):
        await traffic(s, owner, scope, blue=90)
    events = await s.store.read(lambda read: read.events(endpoint.uid))
    assert [event.message for event in events] == [
        "Created by owner.",
        "Updated by owner: traffic blue 100.",
    ]


async def test_a_body_that_says_nothing_of_traffic_leaves_it(s, scope, owner, endpoint, deploy):
    await deploy("blue")
    await deploy("green")
    await traffic(s, owner, scope, mirror={"green": 10}, blue=100)
    row, _ = await endpoints.put(s, owner, scope, "ep1", {"properties": {"authMode": "AMLToken"}})
    spec = decode_object(row.spec)
    assert (spec["traffic"], spec["mirrorTraffic"]) == ({"blue": 100}, {"green": 10})
    row, _ = await endpoints.put(s, owner, scope, "ep1", {"properties": {"traffic": {}, "mirrorTraffic": {}}})
    assert decode_object(row.spec)["traffic"] == {}


async def test_a_deployment_with_traffic_is_not_deleted(s, scope, owner, endpoint, deploy):
    await deploy("blue")
    await deploy("green")
    await traffic(s, owner, scope, mirror={"green": 10}, blue=100)
    with pytest.raises(Conflict, match="has 100 % of the endpoint's traffic"):
        await online_deployments.delete(s, owner, scope, "ep1", "blue")
    with pytest.raises(Conflict, match="10 % of it mirrored"):
        await online_deployments.delete(s, owner, scope, "ep1", "green")


async def test_updates_ask_for_what_they_need(s, scope, endpoint, deploy):
    first = await deploy("blue")
    same = await deploy("blue", ready=False)
    assert same == first
    routed = await deploy("blue", ready=False, requestSettings={"requestTimeout": "PT9S"})
    assert (routed.state, deployment_status(routed).generation) == ("Updating", 1)
    scaled = await deploy("blue", 2, requestSettings={"requestTimeout": "PT9S"})
    assert (deployment_status(scaled).generation, deployment_status(scaled).sku["capacity"]) == (1, 2)
    changed = await deploy("blue", 2, ready=False, environmentVariables={"A": "1"})
    status = deployment_status(changed)
    assert (changed.state, status.generation, status.serving_generation) == ("Updating", 2, 1)
    assert status.serving.spec.environment_variables == ()
    assert status.plan.compute_uid == first.ref
    again = await deploy("blue", 2, ready=False, environmentVariables={"A": "2"})
    status = deployment_status(again)
    assert (status.generation, status.serving_generation) == (3, 1)
    assert status.serving.spec.environment_variables == ()


async def test_a_failed_deployment_is_tried_again_by_the_same_body(s, endpoint, deploy):
    row = await deploy("blue", ready=False)
    await s.store.write(lambda tx: tx.update(replace(tx.by_uid(row.uid), state="Failed")))
    again = await deploy("blue", ready=False)
    assert (again.state, deployment_status(again).generation) == ("Updating", 2)


async def test_the_size_stays(s, endpoint, deploy):
    await deploy("blue")
    with pytest.raises(Conflict, match="Create another deployment") as error:
        await deploy("blue", instanceType="Standard_DS2_v2")
    assert error.value.target == "properties.instanceType"


async def test_its_nodes_have_its_tags_and_only_less_of_a_network(s, scope, owner, endpoint):
    sent = {
        **body(egressPublicNetworkAccess="disabled"),
        "tags": {"team": "a", "tidemill.egress": "internet"},
    }
    row, _ = await online_deployments.put(s, owner, scope, "ep1", "blue", sent)

    async def bill():
        found = await s.store.read(lambda read: implicit_computes.of_owner(read, row))
        return decode_object(found.tags)

    assert await bill() == {"team": "a", "tidemill.egress": "closed"}
    await online_deployments.put(s, owner, scope, "ep1", "blue", {**body(), "tags": {"team": "b"}})
    assert await bill() == {"team": "b"}


async def test_a_patch_changes_what_it_says(s, scope, owner, endpoint, deploy):
    await deploy("blue", environmentVariables={"A": "1"})
    row = await online_deployments.patch(
        s, owner, scope, "ep1", "blue", {"sku": {"capacity": 3}, "tags": {"a": "b"}}
    )
    spec = deployment_status(row).plan.spec
    assert (spec.instances, spec.environment_variables) == (3, (("A", "1"),))
    assert decode_object(row.tags) == {"a": "b"}
    assert deployment_status(row).sku == {"name": "Default", "capacity": 3}


async def test_a_deployment_has_one_autoscale_setting_and_hears_of_it(s, scope, owner, endpoint, deploy):
    def given(name):
        capacity = {"minimum": "1", "maximum": "2", "default": "1"}
        target = f"{scope.arm_id}/onlineEndpoints/ep1/deployments/{name}"
        return {
            "properties": {"targetResourceUri": target, "profiles": [{"name": "p", "capacity": capacity}]}
        }

    async def told(row):
        events = await s.store.read(lambda read: read.events(row.uid))
        return [event.message for event in events if event.code == "AutoscaleSetting"]

    blue, green = await deploy("blue"), await deploy("green")
    group = replace(scope, workspace="")
    row, created = await autoscale_settings.put(s, owner, group, "a", given("blue"))
    assert created
    other = replace(group, group="elsewhere")
    for place, name in ((group, "b"), (other, "a")):
        with pytest.raises(Conflict, match=f"by the setting 'a' of resource group '{group.group}'"):
            await autoscale_settings.put(s, owner, place, name, given("blue"))
    assert not await autoscale_settings.list_of(s, other)
    assert await autoscale_settings.put(s, owner, group, "a", given("blue")) == (row, False)
    row, created = await autoscale_settings.put(s, owner, group, "A", given("green"))
    assert (created, row.ref) == (False, green.uid)
    by = owner.name
    assert await told(blue) == [
        f"It is scaled by the setting 'a', given by {by}.",
        f"The setting 'A' scales it no more: {by} gave it another target.",
    ]
    row = await autoscale_settings.patch(s, owner, group, "a", {"tags": {"x": "1"}})
    assert (row.ref, decode_object(row.tags)) == (green.uid, {"x": "1"})
    await autoscale_settings.delete(s, owner, group, "a")
    assert (await told(green))[-1] == f"The setting 'a' scales it no more: deleted by {by}."


async def test_an_endpoint_goes_with_its_deployments(s, scope, owner, endpoint, deploy):
    row = await deploy("blue")
    await traffic(s, owner, scope, blue=100)
    instance = Resource("i1", Key(scope, "jobs", "i1"), JobState.RUNNING, parent_uid=row.uid)
    instance = await s.store.write(lambda tx: tx.insert(instance))
    assert (await endpoints.delete(s, owner, scope, "ep1")).state == "Deleting"
    with pytest.raises(Conflict, match="being deleted"):
        await endpoints.put(s, owner, scope, "ep1", {"properties": {}})
    with pytest.raises(Conflict, match="being deleted"):
        await deploy("blue")
    ended = replace(instance, state=JobState.CANCELED)
    await s.store.write(lambda tx: tx.update(ended))
    assert await s.store.write(lambda tx: online_deployments.finish_deletion(tx, tx.by_uid(row.uid), 1))
    with pytest.raises(NotFound):
        await endpoints.get(s, scope, "ep1")
    assert not await s.store.read(lambda read: read.find(ResourceQuery(implicit_computes.TYPE, scope)))
    held = await s.store.read(lambda read: read.principals_of_resource(f"{scope.arm_id}/onlineEndpoints/ep1"))
    assert not held


async def test_a_workspace_with_endpoints_is_not_deleted(s, scope, owner, endpoint):
    with pytest.raises(Conflict, match="has endpoints: ep1"):
        await workspace_deletion.delete(s, owner, scope)


async def test_a_model_that_is_served_is_in_use(s, scope, owner, endpoint, deploy):
    await deploy("blue")
    for kind, name in ((MODELS, "digits"), (ENVIRONMENTS, "env"), (CODES, "code")):
        users = await s.store.read(lambda read, k=kind, n=name: users_of(read, scope, k, n, "1"))
        assert users == ["deployment 'ep1/blue' (Succeeded)"]
    with pytest.raises(Conflict, match="in use by deployment 'ep1/blue'"):
        await assets.delete_version(s, owner, scope, MODELS, "digits", "1")


async def test_a_model_of_a_registry_is_served_and_in_use_there(s, scope, owner, endpoint, deploy):
    there = Scope.of_registry(scope.subscription, scope.group, "shared")
    await registries.put(s, owner, there, {"location": "westeurope"})
    guid = workspaces.status_of(await workspaces.get(s, scope))["workspaceId"]
    source = f"azureml://locations/x/workspaces/{guid}/models/digits/versions/1"
    given = {"sourceAssetId": source, "destinationName": "digits", "destinationVersion": "7"}
    await sharing.import_asset(s, owner, there, {"properties": given})
    model = "azureml://registries/shared/models/digits/versions/7"
    plan = deployment_status(await deploy(model=model)).plan
    assert (plan.model.name, plan.model.version) == ("digits", "7")
    assert plan.model.place.account != plan.account
    assert s.blobs.read_bytes(plan.model.place.account, plan.model.place.container, plan.model.place.path)
    users = await s.store.read(lambda read: users_of(read, there, MODELS, "digits", "7"))
    assert users == ["1 online deployment"]
    who = await principals.create(s, owner, PrincipalKind.USER, "eve")
    eve = Caller(who.oid, "eve", "User", principal=who)
    with pytest.raises(NotFound, match="shared"):
        await online_deployments.put(s, eve, scope, "ep1", "green", body(model=model))
