"""Clusters: what is accepted, what changes, how they go, what jobs resolve to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tidemill.app.computes import computes
from tidemill.app.jobs import admission
from tidemill.app.rows.codec import decode_object
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, NotOffered
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import Node, NodeState, Vector


def cluster(size: Any = "STANDARD_DS3_V2", scale: Any = None, **inner: Any) -> dict[str, Any]:
    settings = scale if scale is not None else {"minNodeCount": 0, "maxNodeCount": 2}
    properties = {"vmSize": size, "scaleSettings": settings, **inner}
    return {"location": "local", "properties": {"computeType": "AmlCompute", "properties": properties}}


async def test_created_then_the_same_then_changed(services, scope, owner):
    row, created = await computes.put(services, owner, scope, "cpu", cluster())
    assert created
    assert row.state == "Succeeded"
    assert row.location == "local"
    again, created = await computes.put(services, owner, scope, "CPU", cluster())
    assert not created
    assert again.revision == row.revision
    changed, created = await computes.put(
        services, owner, scope, "cpu", cluster(scale={"minNodeCount": 1, "maxNodeCount": 3})
    )
    assert not created
    assert changed.uid == row.uid
    assert changed.revision > row.revision
    events = await services.store.read(lambda r: r.events(row.uid))
    assert [e.code for e in events] == ["Created", "Updated"]
    assert events[0].message == (
        "Compute cpu created by owner: 0 to 2 nodes of Standard_DS3_v2, closed after 2 min idle."
    )
    assert events[1].message == "Compute cpu updated by owner: min 0 -> 1, max 2 -> 3."


async def test_unknown_fields_are_kept_and_computed_ones_are_not(services, scope, owner):
    body = cluster(currentNodeCount=7, allocationState="Resizing", subnet={"id": "/s"}, novel={"a": [1]})
    body["properties"] |= {"provisioningState": "Failed", "disableLocalAuth": False}
    body["identity"] = {"type": "SystemAssigned"}
    row, _ = await computes.put(services, owner, scope, "cpu", body)
    spec = decode_object(row.spec)
    assert spec["properties"]["novel"] == {"a": [1]}
    assert spec["properties"]["subnet"] == {"id": "/s"}
    assert "currentNodeCount" not in spec["properties"]
    assert "provisioningState" not in spec
    assert spec["disableLocalAuth"] is False
    assert decode_object(row.status)["identity"]["type"] == "SystemAssigned"


async def test_a_password_is_not_stored(services, scope, owner):
    account = {"adminUserName": "u", "adminUserPassword": "hunter2"}
    row, _ = await computes.put(services, owner, scope, "cpu", cluster(userAccountCredentials=account))
    assert b"hunter2" not in row.spec
    assert b"adminUserName" in row.spec


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (cluster("STANDARD_DS3_V22"), InvalidRequest, "Did you mean Standard_DS3_v2"),
        (cluster(None), InvalidRequest, "has no vmSize"),
        (
            cluster(scale={"minNodeCount": 3, "maxNodeCount": 2}),
            InvalidRequest,
            "minNodeCount 3 is more than",
        ),
        (cluster(scale={"maxNodeCount": -1}), InvalidRequest, "from 0 to 1000"),
        (cluster(scale={"maxNodeCount": 100000}), InvalidRequest, "from 0 to 1000"),
        (cluster(scale={"maxNodeCount": "2"}), InvalidRequest, "'2'"),
        (cluster(scale={"maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "2m"}), InvalidRequest, "PT2M"),
        (cluster(scale=[1]), InvalidRequest, "must be an object, not list"),
        (cluster(osType="Windows"), NotOffered, "Windows"),
        ({"properties": {"computeType": "ComputeInstance"}}, NotOffered, "ComputeInstance"),
        ({"properties": {"computeType": "kubernetes"}}, NotOffered, "Kubernetes"),
        ({"properties": {"computeType": "AmlComputer"}}, InvalidRequest, "Did you mean 'AmlCompute'?"),
        ({}, InvalidRequest, "computeType"),
    ],
)
async def test_refused_with_the_value_and_the_fix(services, scope, owner, body, error, words):
    with pytest.raises(error) as caught:
        await computes.put(services, owner, scope, "cpu", body)
    assert words in caught.value.message
    assert await computes.list_of(services, scope) == []


@pytest.mark.parametrize("name", ["local", "Serverless", "1cpu", "cpu-", "a" * 33, "a b", "é"])
async def test_names_that_are_refused(services, scope, owner, name):
    with pytest.raises(InvalidRequest) as caught:
        await computes.put(services, owner, scope, name, cluster())
    assert repr(name) in caught.value.message


async def test_the_size_of_a_cluster_stays(services, scope, owner):
    await computes.put(services, owner, scope, "cpu", cluster())
    with pytest.raises(Conflict, match="Standard_D2s_v3"):
        await computes.put(services, owner, scope, "cpu", cluster("Standard_D2s_v3"))


async def test_patch_merges_the_scale(services, scope, owner):
    await computes.put(services, owner, scope, "cpu", cluster())
    body = {"properties": {"properties": {"scaleSettings": {"maxNodeCount": 5}}}}
    row = await computes.patch(services, owner, scope, "cpu", body)
    scale = decode_object(row.spec)["properties"]["scaleSettings"]
    assert scale == {"minNodeCount": 0, "maxNodeCount": 5, "nodeIdleTimeBeforeScaleDown": "PT2M"}
    too_many = {"properties": {"properties": {"scaleSettings": {"minNodeCount": 9}}}}
    with pytest.raises(InvalidRequest):
        await computes.patch(services, owner, scope, "cpu", too_many)


async def test_an_empty_one_goes_at_once_a_busy_one_waits(services, scope, owner):
    row, _ = await computes.put(services, owner, scope, "cpu", cluster())
    node = Node("cpu-1", row.uid, "local", "Standard_DS3_v2", Vector(1000, 1), state=NodeState.IDLE)
    await services.store.write(lambda tx: tx.insert_node(node))
    deleting = await computes.delete(services, owner, scope, "cpu")
    assert deleting is not None
    assert deleting.state == "Deleting"
    with pytest.raises(Conflict, match="being deleted"):
        await computes.put(services, owner, scope, "cpu", cluster())
    with pytest.raises(Conflict, match="being deleted"):
        await computes.resolve(services, scope, "cpu")
    spec = computes.cluster_of(services, deleting)
    assert spec is not None
    assert spec.deleting
    await computes.put(services, owner, scope, "free", cluster())
    gone = await computes.delete(services, owner, scope, "free")
    assert gone is not None
    assert gone.state == "Succeeded"
    assert [v.row.key.name for v in await computes.list_of(services, scope)] == ["cpu"]
    assert await computes.delete(services, owner, scope, "never") is None


async def test_nodes_and_usages_are_what_lives(services, scope, owner):
    row, _ = await computes.put(services, owner, scope, "cpu", cluster())
    node = Node("cpu-1", row.uid, "local", "Standard_DS3_v2", Vector(1500, 1), state=NodeState.RUNNING)
    closed = replace(node, id="cpu-2", state=NodeState.CLOSED)
    await services.store.write(lambda tx: (tx.insert_node(node), tx.insert_node(closed)))
    assert [line.node.id for line in await computes.nodes_of(services, scope, "cpu")] == ["cpu-1"]
    assert await computes.nodes_of(services, scope, "local") == []
    usages = {u.unit: (u.current, u.limit) for u in await computes.usages(services)}
    assert usages == {"Cores": (2, 4), "Gpus": (0, 0), "Clusters": (1, 10_000)}


@pytest.mark.parametrize("name", ["local", "azureml:local", "Local"])
async def test_local_is_this_host(services, scope, owner, name):
    spec = await computes.resolve(services, scope, name)
    assert (spec.name, spec.size, spec.max_nodes, spec.min_nodes) == ("local", "host", 4, 0)
    assert spec.uid.startswith("local:")
    assert spec.node.cpu_milli == 4000
    assert spec.workspace == scope
    assert await computes.resolve_uid(services, spec.uid) == spec


async def test_resolved_by_name_and_by_id(services, scope, owner):
    row, _ = await computes.put(services, owner, scope, "cpu", cluster())
    expected = computes.cluster_of(services, row)
    assert expected is not None
    assert expected.idle_us == 120_000_000
    assert expected.node.cpu_milli == 4000
    for given in (
        "cpu",
        "azureml:cpu",
        f"{scope.arm_id}/computes/CPU",
        f"azureml:{scope.arm_id}/computes/cpu",
    ):
        assert await computes.resolve(services, scope, given) == expected
    with pytest.raises(NotFound, match="Did you mean 'cpu'"):
        await computes.resolve(services, scope, "cpuu")
    other = scope.arm_id.replace("/main", "/second")
    with pytest.raises(InvalidRequest, match="another workspace"):
        await computes.resolve(services, scope, f"{other}/computes/cpu")
    with pytest.raises(InvalidRequest, match="not the id of a compute"):
        await computes.resolve(services, scope, f"{scope.arm_id}/data/x/versions/1")


async def test_a_gang_larger_than_the_cluster_is_refused_at_submit(services, scope, owner):
    row, _ = await computes.put(services, owner, scope, "cpu", cluster())
    spec = computes.cluster_of(services, row)
    job = CommandJob("true", display_name="j", node_count=3)
    with pytest.raises(InvalidRequest) as caught:
        await admission.check(services, owner, spec, job, "team")
    assert "3 nodes" in caught.value.message
    assert "max_instances" in caught.value.message
    await admission.check(services, owner, spec, replace(job, node_count=2), "team")


async def test_this_host_is_no_resource_and_is_offered_to_jobs_alone(services, scope, owner):
    for name, what in (("local", "is this host itself"), ("Local", "is this host"), ("serverless", "alone")):
        with pytest.raises(NotFound, match=what) as caught:
            await computes.get(services, scope, name)
        assert "Did you mean" not in caught.value.message
        with pytest.raises(InvalidRequest, match=what):
            await computes.delete(services, owner, scope, name)
    with pytest.raises(NotFound, match="There are none yet"):
        await computes.get(services, scope, "locl")
    with pytest.raises(NotFound, match="Did you mean 'local'"):
        await computes.resolve(services, scope, "locl")
