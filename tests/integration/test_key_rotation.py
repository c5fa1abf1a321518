"""Keys of a running server are rotated, and it is killed in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jobserver import JobServer, until

COUNT = 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("keys"))
    made.start()
    yield made
    made.end()


def keys(server: JobServer, kind: str) -> list[dict[str, Any]]:
    found = server.cli("keys", "list", "-o", "json")
    assert found.returncode == 0, found.stderr
    return [key for key in json.loads(found.stdout) if key["kind"] == kind]


def value(server: JobServer, name: str) -> str:
    status, body = server.call("GET", f"/keyvault{server.workspace}/secrets/{name}")
    assert status == 200, body
    return body["value"]


@pytest.mark.kill
def test_a_kill_in_the_middle_of_sealing_anew_loses_nothing(server: JobServer) -> None:
    for at in range(COUNT):
        path = f"/api/v1{server.workspace}/secrets/s{at}"
        assert server.call("PUT", path, {"value": f"value-{at}"})[0] == 200
    (old,) = keys(server, "master")
    status, body = server.call("POST", "/api/v1/keys/rotate", {"kind": "master"})
    server.kill()
    assert status == 200, body
    server.start()
    for at in (0, COUNT // 2, COUNT - 1):
        assert value(server, f"s{at}") == f"value-{at}"
    until(lambda: len(keys(server, "master")) == 1, what="the end of the old key")
    (new,) = keys(server, "master")
    assert new["id"] != old["id"]
    assert old["id"] not in (server.home / "secrets" / "master.key").read_text()
    assert [value(server, f"s{at}") for at in range(COUNT)] == [f"value-{at}" for at in range(COUNT)]


def test_tokens_of_before_count_after_a_rotation_and_a_restart(server: JobServer) -> None:
    old = server.token()
    rotated = server.cli("keys", "rotate", "--signing")
    assert rotated.returncode == 0, rotated.stderr
    assert "count until they expire" in rotated.stdout
    assert server.call("GET", "/api/v1/status")[0] == 200
    jwks = server._send("GET", "/adfs/discovery/keys", None, {})[1]["keys"]
    assert [key["kid"] for key in jwks] == [key["id"] for key in keys(server, "signing")]
    assert len(jwks) == 2
    server.kill()
    server.start()
    assert server.token() == old
    assert server.call("GET", "/api/v1/status")[0] == 200
    server._token = ""
    assert server.token() != old


def test_at_once_ends_them_here_and_in_the_data_process(server: JobServer) -> None:
    import urllib.error
    import urllib.request

    from tidemill.server import launch

    def blob(token: str) -> int:
        import ssl

        variables = launch.variables(server.home)
        data = f"{server.state['addresses']['data']}/{server.account()}.blob.core.windows.net"
        url = f"{data}/azureml-blobstore?restype=container&comp=list"
        headers = {"Authorization": f"Bearer {token}", "x-ms-version": "2021-08-06"}
        context = ssl.create_default_context(cafile=variables["SSL_CERT_FILE"])
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=60, context=context
            ) as got:
                return got.status
        except urllib.error.HTTPError as error:
            return error.code

    old = server.token()
    assert blob(old) == 200
    done = server.cli("keys", "rotate", "--signing", "--at-once")
    assert done.returncode == 0, done.stderr
    assert server.call("GET", "/api/v1/status")[0] == 401
    server._token = ""
    assert blob(server.token()) == 200
    until(lambda: blob(old) == 401, what="the refusal of the old token")


def test_storage_keys_roll_like_key1_and_key2(server: JobServer) -> None:
    from azure.core.exceptions import ClientAuthenticationError
    from azure.storage.blob import ContainerClient

    from tidemill.server import launch

    def key() -> str:
        return str(server.arm("POST", "listKeys")[1]["userStorageKey"])

    def opens(account_key: str) -> bool:
        account = server.account()
        base = f"{server.state['addresses']['data']}/{account}.blob.core.windows.net"
        client = ContainerClient(
            base,
            "azureml-blobstore",
            credential={"account_name": account, "account_key": account_key},
            connection_verify=launch.variables(server.home)["SSL_CERT_FILE"],
            retry_total=0,
        )
        try:
            return client.get_container_properties() is not None
        except ClientAuthenticationError:
            return False

    first = key()
    assert opens(first)
    assert server.cli("keys", "rotate", "--storage").returncode == 0
    second = key()
    assert first != second
    assert opens(second)
    assert opens(first)
    assert server.cli("keys", "rotate", "--storage").returncode == 0
    third = key()
    assert (opens(first), opens(second), opens(third)) == (False, True, True)
    assert server.cli("keys", "rotate", "--storage", "--at-once").returncode == 0
    last = key()
    assert (opens(second), opens(third), opens(last)) == (False, False, True)
    assert [k["state"] for k in keys(server, "storage")] == ["signs"]


def test_links_and_what_is_refused(server: JobServer) -> None:
    assert server.cli("keys", "rotate", "--links").returncode == 0
    assert [key["state"] for key in keys(server, "links")] == ["signs", "verifies"]
    for words, said in ((["rotate"], "Say which"), (["rotate", "--master", "--at-once"], "needs its key")):
        wrong = server.cli("keys", *words)
        assert (wrong.returncode, said in wrong.stderr) == (2, True)
    status, body = server.call("POST", "/api/v1/keys/rotate", {"kind": "house"})
    assert (status, "signing, storage, master, links" in body["error"]["message"]) == (400, True)


def test_it_is_all_in_the_activity_log_which_holds(server: JobServer) -> None:
    _, body = server.call("GET", "/api/v1/activity?what=homeKeys/write&limit=1000")
    assert len(body["value"]) >= 4
    assert {record["outcome"] for record in body["value"]} == {"Succeeded", "Failed"}
    _, body = server.call("GET", "/api/v1/activity?what=keys/forget")
    assert body["value"][0]["who"] == "system"
    server.down()
    server.start()
    _, whole = server.call("GET", "/api/v1/activity/verify")
    assert whole["broken"] is None
    # Signed by keys of before and of now.
    assert whole["checkpoints"] >= 1
