"""Datastores: the workspace's own, user-made ones, and their secrets."""

from __future__ import annotations

import pytest

from tidemill.app.assets import datastores
from tidemill.app.assets.storage_access import KEY_ACTIONS
from tidemill.app.people import access
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Caller
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, NotOffered

OWNER = Caller("o", "owner", "User")
THEIRS = {
    "datastoreType": "AzureBlob",
    "accountName": "acct",
    "containerName": "c",
    "credentials": {
        "credentialsType": "AccountKey",
        "secrets": {"secretsType": "AccountKey", "key": "c2VjcmV0LWtleQ=="},
    },
    "novel": 1,
}


async def secrets_of(services, scope, name):
    """As the owner asks, let in by the owner's own assignment."""
    decision = await access.authorise(services, OWNER, KEY_ACTIONS[0], scope)
    return await datastores.secrets_of(services, OWNER, decision, scope, name)


async def test_the_default_ones_are_there(services, scope):
    rows = await datastores.list_of(services, scope, ascending=True)
    assert {row.key.name for row in rows} == {
        "workspaceblobstore", "workspaceartifactstore", "workspaceworkingdirectory", "workspacefilestore",
    }  # fmt: skip
    default = await datastores.list_of(services, scope, default=True)
    assert [row.key.name for row in default] == ["workspaceblobstore"]
    named = await datastores.list_of(services, scope, names=["WorkspaceFileStore"])
    assert [row.key.name for row in named] == ["workspacefilestore"]


async def test_pages_go_on_where_they_ended(services, scope):
    everything = [row.uid for row in await datastores.list_of(services, scope)]
    first = await datastores.list_of(services, scope, limit=3)
    rest = await datastores.list_of(services, scope, limit=3, after=first[-1].uid)
    assert [row.uid for row in (*first, *rest)] == everything


async def test_the_key_of_our_own_storage_opens_it(services, scope):
    secrets = await secrets_of(services, scope, "workspaceartifactstore")
    account = decode_object((await datastores.get(services, scope, "workspaceartifactstore")).spec)[
        "accountName"
    ]
    (given,) = await services.store.read(lambda r: r.role_assignments())
    key = services.storage_keys.key(account, f"{given.principal}.{given.id}")
    assert secrets == {"secretsType": "AccountKey", "key": key}


async def test_a_users_secret_is_sealed_and_given_back_only_when_asked(services, scope, owner):
    row, created = await datastores.put(services, owner, scope, "theirs", {"properties": THEIRS})
    assert created
    assert decode_object(row.spec)["novel"] == 1
    assert b"c2VjcmV0LWtleQ" not in row.spec + row.status
    assert decode_object(row.spec)["credentials"] == {"credentialsType": "AccountKey"}
    secrets = await secrets_of(services, scope, "theirs")
    assert secrets == {"secretsType": "AccountKey", "key": "c2VjcmV0LWtleQ=="}
    without = {**THEIRS, "credentials": {"credentialsType": "AccountKey"}, "description": "d"}
    changed, created = await datastores.put(services, owner, scope, "theirs", {"properties": without})
    assert not created
    assert changed.status == row.status
    assert await secrets_of(services, scope, "theirs") == secrets


async def test_the_default_ones_stay(services, scope, owner):
    with pytest.raises(Conflict, match="cannot be deleted"):
        await datastores.delete(services, owner, scope, "WorkspaceBlobStore")
    with pytest.raises(Conflict, match="accountName"):
        await datastores.put(services, owner, scope, "workspaceblobstore", {"properties": THEIRS})


async def test_deleted_then_named_when_asked_for(services, scope, owner):
    await datastores.put(services, owner, scope, "theirs", {"properties": THEIRS})
    assert await datastores.delete(services, owner, scope, "theirs")
    assert not await datastores.delete(services, owner, scope, "theirs")
    with pytest.raises(NotFound, match="workspaceblobstore"):
        await datastores.get(services, scope, "theirs")
    with pytest.raises(NotFound, match="Did you mean 'workspaceblobstore'"):
        await secrets_of(services, scope, "workspaceblobstor")


async def test_refused_by_name(services, scope, owner):
    with pytest.raises(NotOffered, match="'OneLake'"):
        await datastores.put(services, owner, scope, "x", {"properties": {"datastoreType": "OneLake"}})
    only = {"datastoreType": "AzureBlob", "accountName": "a"}
    with pytest.raises(InvalidRequest, match="containerName"):
        await datastores.put(services, owner, scope, "x", {"properties": only})
    open_one = {**THEIRS, "credentials": {"credentialsType": "None"}}
    await datastores.put(services, owner, scope, "open", {"properties": open_one})
    with pytest.raises(NotFound, match="no stored secrets"):
        await secrets_of(services, scope, "open")
