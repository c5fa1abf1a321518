"""Registries: scopes of their own, whose assets are read by who has a role there, and by nobody else."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tidemill.app.assets import assets, inputs, mltables, registries, sharing
from tidemill.app.assets.locations import Storage, locate
from tidemill.app.assets.storage import account_for
from tidemill.app.jobs import jobs
from tidemill.app.people import principals, roles
from tidemill.app.people.access import AccessDenied
from tidemill.app.rows.asset_rows import CODES, COMPONENTS, ENVIRONMENTS, MODELS
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.upkeep import housekeeping
from tidemill.app.workspaces import groups, workspaces
from tidemill.app.workspaces.workspaces import get as get_workspace
from tidemill.app.workspaces.workspaces import status_of
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, NotOffered
from tidemill.domain.jobspec import JobInput, JobOutput
from tidemill.domain.model import Caller, JobState, Key, Resource, Scope
from tidemill.domain.principals import PrincipalKind
from tidemill.store.api import ResourceQuery

REGISTRY_USER = "1823dd4f-9b8c-4ab6-ab4e-7397a3684615"
DATA_SCIENTIST = "f6c7c914-8db3-469d-8ca1-694a8f32e121"
MODEL = "azureml://registries/Shared/models/digits/versions/1"


@pytest.fixture
async def shared(services, scope, owner) -> Scope:
    there = Scope.of_registry(scope.subscription, scope.group, "shared")
    await registries.put(services, owner, there, {"location": "westeurope", "tags": {"a": "b"}})
    return there


@pytest.fixture
async def ann(services, scope, owner) -> Caller:
    """May work in the workspace, and has no role at any registry."""
    who = await principals.create(services, owner, PrincipalKind.USER, "ann")
    await give(services, owner, scope, who.oid, DATA_SCIENTIST)
    return Caller(who.oid, "ann", "User", principal=who)


async def give(services, owner, scope: Scope, oid: str, role: str) -> None:
    draft = roles.AssignmentDraft(role, oid)
    await roles.assign(services, owner, roles.Place(scope), str(uuid.uuid4()), draft)


@pytest.fixture
async def digits(services, scope, owner, shared) -> Scope:
    """A model of the workspace, shared as `digits:1`."""
    account = await services.store.read(lambda read: account_for(read, scope))
    services.blobs.put_bytes(account, "azureml-blobstore", "m/w", b"weights")
    body = {"properties": {"modelUri": "azureml://datastores/workspaceblobstore/paths/m", "tags": {"k": "v"}}}
    await assets.put_version(services, owner, scope, MODELS, "m", "3", body)
    await share(services, owner, scope, shared)
    return shared


async def share(services, caller, scope, registry, version: str = "1"):
    wanted = {"destinationName": "digits", "destinationVersion": version}
    return await bring(services, caller, scope, registry, "models/m/versions/3", wanted)


async def bring(services, caller, scope, registry, below: str, wanted: dict[str, str] | None = None):
    guid = status_of(await get_workspace(services, scope))["workspaceId"]
    given = {"sourceAssetId": f"azureml://locations/x/workspaces/{guid}/{below}", **(wanted or {})}
    return await sharing.import_asset(services, caller, registry, {"properties": given})


async def component(services, owner, scope, name: str, **spec: Any) -> None:
    given = {"properties": {"componentSpec": {"type": "command", "command": "true", **spec}}}
    await assets.put_version(services, owner, scope, COMPONENTS, name, "1", given)


async def code(services, owner, scope, text: str, digest: str = "") -> None:
    """As `src:1`, with the hash that clients give; REST calls may leave it out."""
    account = await services.store.read(lambda read: account_for(read, scope))
    services.blobs.put_bytes(account, "azureml-blobstore", "src/run.py", text.encode())
    properties = {"hash_sha256": digest, "hash_version": "202208"} if digest else {}
    uri = "azureml://datastores/workspaceblobstore/paths/src"
    body = {"properties": {"codeUri": uri, "properties": properties}}
    await assets.put_version(services, owner, scope, CODES, "src", "1", body)


async def rights(services, caller, definition: Any) -> None:
    await registries.check_usable(services, caller, definition)


async def test_a_name_is_the_only_one_of_its_subscription(services, scope, owner, shared):
    row, created = await registries.put(services, owner, shared, {"tags": {"c": "d"}})
    assert not created
    assert decode_object(row.tags) == {"c": "d"}
    two = {"location": "here", "properties": {"regionDetails": [{"location": "here"}, {"location": "there"}]}}
    with pytest.raises(NotOffered, match="Replication to there"):
        await registries.put(services, owner, shared, two)
    other = Scope(scope.subscription, "other")
    await groups.put(services, owner, other, "westeurope", None)
    with pytest.raises(Conflict, match="another resource group"):
        await registries.put(services, owner, Scope.of_registry(other.subscription, "other", "SHARED"), {})
    with pytest.raises(InvalidRequest, match="Azure's own"):
        await registries.put(
            services, owner, Scope.of_registry(scope.subscription, scope.group, "azureml"), {}
        )


async def test_what_was_shared_is_found_by_its_address(services, scope, owner, digits):
    account = await services.store.read(lambda read: account_for(read, scope))
    found = await services.store.read(
        lambda read: locate(read, Storage(scope, account, services.addresses.data_netloc), MODEL)
    )
    place = found.place
    assert place.account != account
    assert services.blobs.read_bytes(place.account, place.container, f"{place.path}/w") == b"weights"
    services.blobs.delete_account(account)
    assert services.blobs.read_bytes(place.account, place.container, f"{place.path}/w") == b"weights"


async def test_shared_again_it_is_the_same_version(services, scope, owner, digits):
    row = await share(services, owner, scope, digits)
    rows = await services.store.read(lambda read: read.find(ResourceQuery("models/versions", digits)))
    assert [one.uid for one in rows] == [row.uid]
    assert decode_object(row.spec)["tags"] == {"k": "v"}
    await assets.put_version(
        services, owner, digits, MODELS, "digits", "2", {"properties": {"modelUri": "https://example.org/m"}}
    )
    with pytest.raises(Conflict, match="exists in registry 'shared' already"):
        await share(services, owner, scope, digits, "2")


@pytest.mark.parametrize(
    "given", ["", "azureml:m:3", "azureml://locations/x/workspaces/g/codes/m/versions/3"]
)
async def test_what_is_to_be_shared_is_said_by_its_id(services, owner, shared, given):
    with pytest.raises(InvalidRequest, match="write azureml://locations/LOCATION/workspaces/ID/models/"):
        await sharing.import_asset(services, owner, shared, {"properties": {"sourceAssetId": given}})


async def test_a_component_that_is_made_of_itself_is_refused(services, scope, owner, shared):
    steps = {"s": {"componentId": "azureml:b:1"}}
    await component(services, owner, scope, "a", type="pipeline", jobs=steps)
    await component(services, owner, scope, "b", type="pipeline", jobs={"t": {"componentId": "azureml:a:1"}})
    with pytest.raises(InvalidRequest, match="'b:1' names azureml:a:1: it is made of itself"):
        await bring(services, owner, scope, shared, "components/a/versions/1")


@pytest.mark.parametrize(("hashes", "is_same"), [(("x", "x"), True), (("x", "y"), False), (("", ""), False)])
async def test_code_of_another_workspace_is_the_same_by_its_hash_alone(
    services, scope, owner, shared, hashes, is_same
):
    other = Scope(scope.subscription, scope.group, "other")
    await workspaces.create(
        services, owner, Scope(scope.subscription, scope.group), workspaces.WorkspaceDraft("other")
    )
    for there, digest, name in zip((scope, other), hashes, ("one", "two"), strict=True):
        await code(services, owner, there, name, digest)
        await component(services, owner, there, name, code="azureml:src:1")
    await bring(services, owner, scope, shared, "components/one/versions/1")
    if is_same:
        await bring(services, owner, other, shared, "components/two/versions/1")
    else:
        with pytest.raises(
            Conflict, match=r"names azureml:src:1: Code 'src' version '1' exists .* where it is"
        ):
            await bring(services, owner, other, shared, "components/two/versions/1")


async def test_an_environment_in_a_workspaces_package_stays_there(services, scope, owner, shared):
    body = {"properties": {"image": "package://digits:1"}}
    await assets.put_version(services, owner, scope, ENVIRONMENTS, "packed", "1", body)
    with pytest.raises(InvalidRequest, match="runs in package://digits:1, which a workspace has"):
        await bring(services, owner, scope, shared, "environments/packed/versions/1")


async def test_shared_twice_at_once_it_is_one_version(services, scope, owner, digits):
    one, two = await asyncio.gather(*(share(services, owner, scope, digits, "7") for _ in range(2)))
    assert one.uid == two.uid


async def test_who_may_not_read_the_registry_submits_nothing_that_names_it(services, owner, digits, ann):
    definition = {"inputs": {"m": {"uri": MODEL}}, "list": [MODEL]}
    with pytest.raises(NotFound, match="registries/assets/read"):
        await rights(services, ann, definition)
    body = {"command": "true", "jobType": "Command", "environmentId": MODEL.replace("models", "environments")}
    with pytest.raises(NotFound, match="'ann' may not use it"):
        await jobs.submit(services, ann, Scope("s", "g", "w"), "j", {"properties": body})
    told: list[str] = []
    for name in ("shared", "absent"):
        with pytest.raises(NotFound) as caught:
            await rights(services, ann, [f"azureml://registries/{name}/models/m/versions/1"])
        told.append(caught.value.message.replace(name, "X"))
    assert told[0] == told[1]
    await give(services, owner, digits, ann.oid, REGISTRY_USER)
    await rights(services, ann, definition)
    await rights(services, ann, ["azureml://registries/azureml/environments/sklearn-1.5/versions/1"])


async def test_nothing_leads_around_that_right(services, scope, owner, digits, ann):
    """Neither an asset that points at the registry, nor an MLTable, nor an output."""
    body = {"properties": {"modelUri": MODEL}}
    with pytest.raises(InvalidRequest, match="by that address itself"):
        await assets.put_version(services, owner, scope, MODELS, "around", "1", body)
    account = await services.store.read(lambda read: account_for(read, scope))
    services.blobs.put_bytes(
        account, "azureml-blobstore", "t/MLTable", f"paths:\n- folder: {MODEL}\n".encode()
    )
    item = JobInput("t", "mltable", "azureml://datastores/workspaceblobstore/paths/t/", "ro_mount")
    planned = await services.store.read(lambda r: inputs.resolve_input(services, r, scope, account, item))
    with pytest.raises(NotFound, match="'ann' may not use it"):
        await mltables.with_parts(services, ann, scope, account, [planned])
    (table,) = await mltables.with_parts(services, owner, scope, account, [planned])
    assert table.parts[0].place.account != account
    output = JobOutput("o", "uri_folder", uri=MODEL)
    with pytest.raises(InvalidRequest, match="cannot be written to"):
        await services.store.read(lambda r: inputs.resolve_output(services, r, scope, account, "j", output))


async def test_sharing_needs_the_right_to_read_the_source(services, scope, owner, digits):
    bob = await principals.create(services, owner, PrincipalKind.USER, "bob")
    await give(services, owner, digits, bob.oid, REGISTRY_USER)
    with pytest.raises(AccessDenied, match="models/versions/read"):
        await share(services, Caller(bob.oid, "bob", "User", principal=bob), scope, digits, "9")


async def test_what_is_in_use_stays_and_its_users_are_counted(services, scope, owner, digits):
    spec = encode({"inputs": {"m": {"jobInputType": "custom_model", "uri": MODEL}}})
    row = Resource(services.ids.uid(), Key(scope, "jobs", "secret-job"), JobState.QUEUED, spec=spec)
    await services.store.write(lambda tx: tx.insert(row))
    for call in (
        registries.delete(services, owner, digits),
        assets.delete_version(services, owner, digits, MODELS, "digits", "1"),
    ):
        with pytest.raises(Conflict) as caught:
            await call
        assert "1 jobs that have not ended" in caught.value.message
        assert "secret-job" not in caught.value.message


async def test_what_a_broken_share_left_there_is_found_by_the_rules_of_retention(services, digits):
    left = await assets.start_pending_upload(services, digits, MODELS, "digits", "2")
    services = replace(services, environments=SimpleNamespace(list=list))
    (services.settings.home / "config.json").write_text("{}")
    seen = [one.candidate for one in await housekeeping.look(services)]
    used = {one.name: bool(one.named_by) for one in seen if one.name.startswith(f"{left.account}/")}
    assert used.pop(f"{left.account}/{left.container}") is False
    assert list(used.values()) == [True]


async def test_a_deleted_registry_takes_its_assets_and_roles_with_it(services, scope, owner, digits, ann):
    await give(services, owner, digits, ann.oid, REGISTRY_USER)
    account = await services.store.read(lambda read: account_for(read, digits))
    assert await registries.delete(services, owner, digits)
    assert not await registries.delete(services, owner, digits)
    assert services.blobs.account_scope(account) is None
    await registries.put(services, owner, digits, {})
    assert await assets.list_containers(services, digits, MODELS, assets.AssetQuery()) == ()
    with pytest.raises(NotFound):
        await rights(services, ann, [MODEL])
    with pytest.raises(NotFound, match="'digits'"):
        await assets.get_version(services, digits, MODELS, "digits", "1")


async def test_a_registry_that_is_not_there_is_told_with_those_that_are(services, scope, owner, shared):
    with pytest.raises(NotFound, match="Did you mean 'shared'"):
        await registries.by_name(services, owner, "x/read", "shred")
    with pytest.raises(NotFound, match="registry 'shared'"):
        await assets.get_version(services, shared, ENVIRONMENTS, "env", "1")
