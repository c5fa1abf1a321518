"""Connections: what is shown, what is sealed, and who gets the credentials of a registry."""

from __future__ import annotations

import pytest

from tidemill.app.assets import connections
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.sealed import resealed, unseal
from tidemill.domain.errors import InvalidRequest, NotFound

REGISTRY = {
    "category": "ContainerRegistry",
    "authType": "UsernamePassword",
    "target": "https://localhost:5000/team",
    "credentials": {"username": "ann", "password": "hunter2-secret"},
}


async def put(services, owner, scope, name="reg", **changes):
    return await connections.put(services, owner, scope, name, {"properties": {**REGISTRY, **changes}})


async def test_secrets_are_sealed_and_the_rest_is_shown(services, scope, owner):
    row, created = await put(services, owner, scope, novel=1)
    assert created
    assert b"hunter2" not in row.spec + row.status
    spec = decode_object(row.spec)
    assert spec["credentials"] == {"username": "ann"}
    assert spec["novel"] == 1
    _, shown = await connections.secrets_of(services, scope, "reg")
    assert shown["credentials"] == REGISTRY["credentials"]


@pytest.mark.parametrize(
    ("kind", "credentials", "public"),
    [
        ("PAT", {"pat": "p-secret"}, {}),
        ("AccessKey", {"accessKeyId": "AK", "secretAccessKey": "s-secret"}, {"accessKeyId": "AK"}),
        ("SAS", {"sas": "sig-secret"}, {}),
        ("ApiKey", {"key": "k-secret"}, {}),
        ("AccountKey", {"sas": "k-secret"}, {}),
        ("CustomKeys", {"keys": {"a": "v-secret"}}, {}),
        ("ManagedIdentity", {"clientId": "c", "resourceId": "r"}, {"clientId": "c", "resourceId": "r"}),
        (
            "ServicePrincipal",
            {"clientId": "c", "clientSecret": "x-secret", "tenantId": "t"},
            {"clientId": "c", "tenantId": "t"},
        ),
    ],
)
async def test_every_type_keeps_its_secrets_apart(services, scope, owner, kind, credentials, public):
    row, _ = await put(services, owner, scope, category="Custom", authType=kind, credentials=credentials)
    assert b"-secret" not in row.spec + row.status
    assert decode_object(row.spec).get("credentials", {}) == public
    _, shown = await connections.secrets_of(services, scope, "reg")
    assert shown["credentials"] == credentials


async def test_kept_secrets_do_not_follow_to_another_target(services, scope, owner):
    first, _ = await put(services, owner, scope)
    same, created = await put(services, owner, scope, credentials={"username": "ann"}, metadata={"a": "b"})
    assert not created
    assert same.status == first.status
    with pytest.raises(InvalidRequest, match="goes somewhere else now"):
        await put(services, owner, scope, target="https://evil.example", credentials=None)
    with pytest.raises(InvalidRequest, match="goes somewhere else now"):
        await connections.update(services, owner, scope, "reg", {"properties": {"target": "evil.example"}})
    changed = await connections.update(
        services, owner, scope, "reg", {"properties": {"metadata": {"c": "d"}}}
    )
    assert decode_object(changed.spec)["metadata"] == {"c": "d"}
    assert unseal(services, changed)["credentials"] == {"password": "hunter2-secret"}


async def test_a_sealed_value_moved_to_another_row_does_not_open(services, scope, owner):
    from dataclasses import replace

    first, _ = await put(services, owner, scope)
    second, _ = await put(services, owner, scope, "other", credentials={"username": "b", "password": "x"})
    moved = replace(second, status=first.status)
    with pytest.raises(ValueError, match="belongs to something else"):
        unseal(services, moved)


async def test_sealing_anew_after_a_rotation(services, scope, owner):
    row, _ = await put(services, owner, scope)
    assert resealed(services.secrets, row) is None
    services.secrets.take({"00000002": b"n" * 32, "00000001": b"k" * 32})
    anew = resealed(services.secrets, row)
    assert anew is not None
    services.secrets.take({"00000002": b"n" * 32})
    assert unseal(services, anew)["credentials"]["password"] == "hunter2-secret"
    with pytest.raises(ValueError, match="not in this home"):
        unseal(services, row)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"category": None}, "has no category"),
        ({"authType": "UsernamePasword"}, "Did you mean 'UsernamePassword'"),
        ({"credentials": {"username": "ann"}}, "is new: give the UsernamePassword credentials"),
        ({"credentials": {"password": "p"}}, "lack username"),
        ({"target": "https://ann:pw@host/x"}, "has a password in it"),
        ({"credentials": "p"}, "must be an object"),
        ({"value": "{}"}, "older API version"),
    ],
)
async def test_bad_ones_are_refused_with_the_fix(services, scope, owner, changes, said):
    with pytest.raises(InvalidRequest, match=said) as refused:
        await put(services, owner, scope, **changes)
    assert "hunter2" not in refused.value.message


async def test_a_registry_finds_its_credentials_by_host(services, scope, owner):
    await put(services, owner, scope)
    await put(services, owner, scope, "git", category="Git", target="https://ghcr.io")
    found = await connections.registry_credentials(services, scope, "LOCALHOST:5000")
    assert found == connections.RegistryCredentials("reg", "ann", "hunter2-secret")
    assert "hunter2" not in repr(found)
    assert await connections.registry_credentials(services, scope, "localhost") is None
    assert await connections.registry_credentials(services, scope, "ghcr.io") is None
    (record,) = await services.store.read(lambda r: r.activity_from(1, 10))
    assert (record.actor_kind, record.reason) == ("system", "To pull an image from LOCALHOST:5000.")


async def test_list_filters_and_pages(services, scope, owner):
    for name in ("a", "b", "c"):
        await put(services, owner, scope, name)
    await put(services, owner, scope, "d", category="Git")
    rows = await connections.list_of(services, scope, category="containerregistry", limit=2)
    assert [row.key.name for row in rows] == ["a", "b"]
    rest = await connections.list_of(services, scope, category="ContainerRegistry", after=rows[-1].uid)
    assert [row.key.name for row in rest] == ["c"]
    assert await connections.delete(services, owner, scope, "A")
    assert not await connections.delete(services, owner, scope, "a")
    with pytest.raises(NotFound, match="There are: b, c, d"):
        await connections.get(services, scope, "zzzzz")
