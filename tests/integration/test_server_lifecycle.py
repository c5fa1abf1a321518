"""Starting, stopping, killing and adopting real server processes; who is let in."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import Conflict, NotFound, TidemillError
from tidemill.identity import keys as key_files
from tidemill.identity.signing import SigningKeys
from tidemill.identity.tokens import HomeOwner, TokenIssuer
from tidemill.server import home as homes
from tidemill.server import launch, side
from tidemill.server.ports import listen

ANY = {"https_port": 0, "http_port": 0, "data_port": 0}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "home"
    yield root
    launch.down(root)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def call(
    state: dict[str, Any],
    path: str,
    token: str = "",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, dict[str, str], Any]:
    host, port = state["addresses"]["http"].removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, body, {**bearer, **(headers or {})})
        reply = connection.getresponse()
        text = reply.read()
        names = {name.lower(): value for name, value in reply.getheaders()}
        return reply.status, names, json.loads(text) if text else None
    finally:
        connection.close()


def token_of(home: Path, state: dict[str, Any], resource: str = "https://management.azure.com/") -> str:
    secret = (home / "secrets" / "identity.header").read_text()
    status, _, body = call(state, f"/msi/token?resource={resource}", headers={"X-IDENTITY-HEADER": secret})
    assert status == 200, body
    return body["access_token"]


def issuer_of(home: Path, now: Callable[[], int] = lambda: time.time_ns() // 1000) -> TokenIssuer:
    config = homes.load_config(homes.Home(home))
    keys = key_files.load_or_create(home / "secrets")
    owner = HomeOwner(config.owner_oid, config.client_id, "x", keys.identity_header, keys.client_secret)
    return TokenIssuer(
        signing=SigningKeys(keys.directory),
        links=keys.links,
        tenant=config.tenant,
        owner=owner,
        audiences=(),
        now=now,
    )


def workspace(state: dict[str, Any]) -> str:
    where = state["workspace"]
    group = f"/subscriptions/{where['subscription']}/resourceGroups/{where['group']}"
    return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{where['name']}"


def test_up_status_env_down(home):
    state = launch.up(home, **ANY, detach=True)
    assert alive(state["pid"])
    assert alive(state["data_pid"])
    assert home.stat().st_mode & 0o007 == 0  # its group, where it has rights, is the server's own
    assert {path.stat().st_mode & 0o077 for path in (home / "secrets").iterdir()} == {0}
    assert (home / "server.json").stat().st_mode & 0o777 == 0o600
    status = launch.status(home)
    assert (status["up"], status["pid"], status["data_pid"]) == (True, state["pid"], state["data_pid"])
    assert status["addresses"] == state["addresses"]
    assert json.loads(launch.env(home, "json"))["AZUREML_WORKSPACE_NAME"] == "main"

    pids = {state["pid"], state["data_pid"], state["gateway_pid"]}
    assert set(launch.down(home)["stopped"]) == pids
    assert not any(map(alive, pids))
    assert launch.status(home) == {"up": False, "home": str(home)}
    assert launch.down(home) == {"stopped": []}
    with pytest.raises(NotFound, match="tidemill up"):
        launch.env(home)


def test_second_up_names_the_pid(home):
    state = launch.up(home, **ANY, detach=True)
    with pytest.raises(TidemillError, match=f"pid {state['pid']}") as caught:
        launch.up(home, **ANY, detach=True)
    assert caught.value.code == "HomeInUse"
    with pytest.raises(TidemillError, match=f"pid {state['pid']}"):
        launch.up(home, **ANY, detach=False)
    assert launch.status(home)["answers"]


@pytest.mark.parametrize("flag", ["https", "http", "data", "gateway"])
def test_taken_port_names_the_flag(home, flag):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TidemillError, match=rf"Port {port} is taken.*--{flag}-port") as caught:
            launch.up(home, **{**ANY, f"{flag}_port": port}, detach=True)
    assert caught.value.code == "PortInUse"
    assert launch.status(home)["up"] is False
    assert launch.up(home, **ANY, detach=True)["pid"]  # and nothing is left in the way


def test_home_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(TidemillError, match="is not empty"):
        launch.up(tmp_path, **ANY, detach=True)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


@pytest.mark.kill
def test_killed_control_adopts_its_other_processes_and_ports(home):
    first = launch.up(home, **ANY, detach=True)
    token = token_of(home, first)
    for _ in range(3):
        os.kill(first["pid"], signal.SIGKILL)
        until(lambda pid=first["pid"]: not alive(pid))
        assert alive(first["data_pid"])
        assert alive(first["gateway_pid"])
        again = launch.up(home, **ANY, detach=True)
        assert again["data_pid"] == first["data_pid"]
        assert again["gateway_pid"] == first["gateway_pid"]
        assert again["addresses"] == first["addresses"]
        assert call(again, workspace(again), token)[0] == 200  # tokens outlive the server
        first = again


@pytest.mark.kill
def test_killed_data_process_is_started_again_on_its_port(home):
    state = launch.up(home, **ANY, detach=True)
    os.kill(state["data_pid"], signal.SIGKILL)
    read = lambda: json.loads((home / "server.json").read_bytes())  # noqa: E731
    new = until(lambda: read()["data_pid"] != state["data_pid"] and read())
    assert new["addresses"] == state["addresses"]
    assert alive(new["data_pid"])
    port = int(new["addresses"]["data"].rsplit(":", 1)[1])
    context = ssl.create_default_context(cafile=str(home / "tls" / "ca.pem"))
    connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
    connection.request("GET", "/tm0.blob.core.windows.net/none?restype=container&comp=list")
    assert connection.getresponse().status < 500
    connection.close()


def test_a_port_that_was_chosen_is_nobody_elses_while_its_process_starts(home):
    launch.up(home, **ANY, keep_root=os.geteuid() == 0, detach=True)
    launch.down(home)
    sockets = listen(0, "--data-port")
    port = sockets[0].getsockname()[1]
    process = side.Supervised(side.DATA, homes.Home(home), {"port": port}, print, sockets={"port": sockets})

    async def started() -> None:
        process.start()
        try:
            for _ in range(2):  # before it has begun, and once it serves
                with pytest.raises(Conflict, match=f"Port {port} is taken"):
                    listen(port, "--data-port")
                await process.ready()
        finally:
            await process.stop()

    asyncio.run(started())


@pytest.mark.kill
def test_killed_gateway_is_back_on_its_port_within_a_second(home):
    began = time.monotonic()
    state = launch.up(home, **ANY, detach=True)
    slow = time.monotonic() - began  # this machine, now: that start included the gateway's
    port = int(state["addresses"]["gateway"].rsplit(":", 1)[1])
    context = ssl.create_default_context(cafile=str(home / "tls" / "ca.pem"))

    def status() -> int | None:
        connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
        try:
            connection.request("GET", "/endpoints/s/g/w/e/score")
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()

    assert status() == 404
    os.kill(state["gateway_pid"], signal.SIGKILL)
    until(lambda: not alive(state["gateway_pid"]))
    assert until(status, 1.0 + slow) == 404
    read = lambda: json.loads((home / "server.json").read_bytes())  # noqa: E731
    new = until(lambda: read()["gateway_pid"] != state["gateway_pid"] and read())
    assert new["addresses"] == state["addresses"]
    assert launch.down(home)["stopped"]
    assert not alive(new["gateway_pid"])


@pytest.mark.kill
def test_all_killed_and_down_with_only_the_others_left(home):
    state = launch.up(home, **ANY, detach=True)
    for name in ("pid", "data_pid", "gateway_pid"):
        os.kill(state[name], signal.SIGKILL)
    until(lambda: not any(alive(state[name]) for name in ("pid", "data_pid", "gateway_pid")))
    again = launch.up(home, **ANY, detach=True)
    assert again["data_pid"] != state["data_pid"]
    assert again["gateway_pid"] != state["gateway_pid"]
    os.kill(again["pid"], signal.SIGKILL)
    until(lambda: not alive(again["pid"]))
    others = {again["data_pid"], again["gateway_pid"]}
    assert others <= set(launch.down(home)["stopped"])
    assert not any(map(alive, others))


def test_terminate_is_a_clean_stop(home):
    state = launch.up(home, **ANY, detach=True)
    os.kill(state["pid"], signal.SIGTERM)
    until(lambda: not alive(state["pid"]))
    assert not alive(state["data_pid"])
    assert not alive(state["gateway_pid"])
    assert not (home / "server.json").exists()
    assert "Traceback" not in (home / "logs" / "control.log").read_text()


def test_env_formats_quote(home, monkeypatch, tmp_path):
    odd = tmp_path / "it's $HOME `x`"
    state = launch.up(odd, **ANY, detach=True)
    try:
        import subprocess

        script = launch.env(odd, "sh") + 'printf "%s" "$REQUESTS_CA_BUNDLE"'
        shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
        assert shown == str(odd / "tls" / "ca-bundle.pem")
        assert "it''s" in launch.env(odd, "powershell")
        values = json.loads(launch.env(odd, "json"))
        assert values["ARM_CLOUD_METADATA_URL"].startswith(state["addresses"]["https"] + "/")
        with pytest.raises(TidemillError, match="--format"):
            launch.env(odd, "xml")
    finally:
        launch.down(odd)


# Who is let in. One server for all of these.


def refused(state: dict[str, Any], token: str, **more: Any) -> tuple[str, dict[str, str]]:
    status, headers, body = call(state, workspace(state), token, **more)
    assert status == 401, body
    return body["error"]["code"], headers


def test_tokens_that_are_refused(server, tmp_path):
    state, home = server.state, server.home
    code, headers = refused(state, "")
    assert code == "AuthenticationFailed"
    assert headers["www-authenticate"].startswith("Bearer")
    assert refused(state, "nonsense")[0] == "InvalidAuthenticationToken"

    yesterday = time.time_ns() // 1000 - 86_400_000_000
    expired = issuer_of(home, lambda: yesterday).issue_owner("https://management.azure.com/", ttl_s=60)
    assert refused(state, expired)[0] == "ExpiredAuthenticationToken"

    foreign_home = homes.prepare(tmp_path / "foreign")
    homes.load_config(foreign_home)
    foreign = issuer_of(foreign_home.root).issue_owner("https://management.azure.com/")
    assert refused(state, foreign)[0] == "InvalidAuthenticationToken"

    good = token_of(home, state)
    _, claims, _ = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    for token in (f"{none}.{claims}.", f"{none}.{claims}.{good.split('.')[2]}"):
        assert refused(state, token)[0] == "InvalidAuthenticationToken"
    assert refused(state, "", headers={"Authorization": "Basic Zm9v"})[0] == "AuthenticationFailed"
    assert call(state, workspace(state), good)[0] == 200


def test_the_secret_of_the_identity_endpoint(server):
    path = "/msi/token?resource=https://management.azure.com/"
    for headers in ({}, {"X-IDENTITY-HEADER": "wrong"}):
        status, _, body = call(server.state, path, headers=headers)
        assert (status, body["error"]["code"]) == (401, "InvalidIdentityHeader")
    secret = server.env["IDENTITY_HEADER"]
    status, _, body = call(
        server.state, "/msi/token?resource=https://graph.microsoft.com", headers={"X-IDENTITY-HEADER": secret}
    )
    assert (status, body["error"]["code"]) == (400, "invalid_resource")


def test_a_token_of_a_job_that_is_not_there_is_dead(server):
    from tidemill.domain.model import Scope

    where = server.state["workspace"]
    mine = Scope(where["subscription"], where["group"], where["name"])
    token = issuer_of(server.home).issue_job(
        uid="j", name="job", scope=mine, audience="https://ml.azure.localhost", ttl_s=60
    )
    own = workspace(server.state)
    for method, path in (("GET", own), ("POST", f"{own}/listKeys"), ("GET", "/subscriptions")):
        status, _, body = call(server.state, path, token, method)
        assert (status, body["error"]["code"]) == (401, "ExpiredAuthenticationToken"), (method, path)


def test_unknown_paths_methods_and_subscriptions(server):
    token = token_of(server.home, server.state)
    own = workspace(server.state)
    status, _, body = call(server.state, "/nowhere/at/all", token)
    assert (status, body["error"]["target"]) == (404, "/nowhere/at/all")
    status, _, body = call(server.state, own, token, "POST")
    assert (status, body["error"]["code"]) == (405, "MethodNotAllowed")
    assert "PATCH" in body["error"]["message"]
    status, _, body = call(server.state, "/subscriptions/00000000-0000-0000-0000-000000000000", token)
    assert (status, body["error"]["code"]) == (404, "SubscriptionNotFound")
    status, headers, body = call(server.state, own, token, "HEAD")
    assert (status, body) == (200, None)
    assert headers["x-ms-request-id"]
    status, _, body = call(server.state, own, token, "PATCH", body=b"{nonsense")
    assert (status, body["error"]["code"]) == (400, "InvalidRequestContent")


def test_names_match_without_regard_to_case(server):
    token = token_of(server.home, server.state)
    status, _, body = call(server.state, workspace(server.state).upper(), token)
    assert (status, body["name"]) == (200, "main")
    status, _, body = call(server.state, "/mferp/managementfrontend" + workspace(server.state), token)
    assert (status, body["name"]) == (200, "main")


def test_conditions_on_a_workspace(server):
    token, own = token_of(server.home, server.state), workspace(server.state)
    _, headers, _ = call(server.state, own, token)
    tag = headers["etag"]
    patch = b'{"tags":{"a":"1"}}'
    assert call(server.state, own, token, "PATCH", {"If-Match": '"old"'}, patch)[0] == 412
    status, headers, body = call(server.state, own, token, "PATCH", {"If-Match": tag}, patch)
    assert (status, body["tags"]) == (200, {"a": "1"})
    assert headers["etag"] != tag


def test_every_route_declares_its_action_and_a_scope_it_can_read():
    from tidemill.domain.ids import PROVIDER
    from tidemill.server.compose import routes
    from tidemill.wire.http import PUBLIC, SIGNED_IN, Router

    found = routes()
    Router(found)  # no two for one method and path
    for route in found:
        assert route.action, route
        assert route.action in (PUBLIC, SIGNED_IN) or route.action.startswith("Microsoft."), route
        if f"{PROVIDER}/workspaces/" in route.path:
            assert "{ws}" in route.path, route
        if "{ws}" in route.path:
            assert "{rg}" in route.path, route
            assert "{sub}" in route.path, route
    public = {route.path for route in found if route.action == PUBLIC}
    assert public >= {"/metadata/endpoints", "/msi/token"}
    signed = {path for path in public if "{sub}" in path}
    # Their link is their permission; MLflow's base address only leads a browser to a page that reads nothing
    # but the browser's own address, and goes on to the portal, which asks.
    forward = "/ui/{sub}/{rg}/{ws}/mlflow"
    assert all(path.startswith(("/signed/", "/mlflow/")) or path == forward for path in signed), signed


def test_a_start_without_ports_keeps_the_addresses_of_the_last_one(home: Path) -> None:
    first = launch.up(home, **ANY, detach=True)
    launch.down(home)
    assert launch.up(home, detach=True)["addresses"] == first["addresses"]
