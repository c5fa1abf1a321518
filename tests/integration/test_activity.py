"""The activity log of a running server: what is in it, what is never in it, and what is found when it is
changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from jobserver import JobServer, until

SECRET = "feed-password-1234"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("activity"))
    made.start()
    yield made
    made.end()


def records(server: JobServer, query: str = "") -> list[dict[str, Any]]:
    status, body = server.call("GET", f"/api/v1/activity?limit=1000{query}")
    assert status == 200, body
    return body["value"]


def put_connection(server: JobServer, name: str) -> None:
    properties = {
        "category": "PythonFeed",
        "authType": "UsernamePassword",
        "target": "https://feed.example/simple",
        "credentials": {"username": "ann", "password": SECRET},
    }
    status, body = server.arm("PUT", f"connections/{name}", {"properties": properties})
    assert status == 200, body


def test_a_sign_in_and_a_write(server: JobServer) -> None:
    server.token()
    put_connection(server, "feed")
    write = records(server, "&what=connections/write")[0]
    assert write["resource"] == f"{server.workspace}/connections/feed"
    assert write["scope"] == server.workspace
    assert (write["outcome"], write["status"], write["method"]) == ("Succeeded", 200, "PUT")
    assert write["address"] == "127.0.0.1"
    assert write["oid"]
    signed_in = records(server, "&what=signIn")[0]
    assert (signed_in["oid"], signed_in["resource"]) == (write["oid"], "/msi/token")


def test_refusals_are_there_with_what_was_tried(server: JobServer) -> None:
    path = f"{server.workspace}/jobs/none-of-yours"
    for headers in ({}, {"Authorization": "Bearer forged.token.here"}):
        status, _ = server._send("PUT", path, {}, headers)
        assert status == 401
    found = [r for r in records(server, "&refused=true") if r["resource"] == path]
    assert {r["code"] for r in found} == {"AuthenticationFailed", "InvalidAuthenticationToken"}
    assert {(r["who"], r["oid"], r["outcome"]) for r in found} == {("anonymous", "", "Refused")}
    status, _ = server._send("GET", "/msi/token?resource=x", None, {"X-IDENTITY-HEADER": "guess"})
    assert status == 401
    assert records(server, "&refused=true&what=signIn")[0]["code"] == "InvalidIdentityHeader"


def test_a_look_at_a_secret_is_on_disk_before_the_secret_is_out(server: JobServer) -> None:
    put_connection(server, "looked-at")
    before = server.sql("SELECT count(*) FROM activity WHERE action LIKE '%listsecrets%'")[0][0]
    status, body = server.arm("POST", "connections/looked-at/listsecrets")
    assert (status, body["properties"]["credentials"]["password"]) == (200, SECRET)
    after = server.sql("SELECT count(*) FROM activity WHERE action LIKE '%listsecrets%'")[0][0]
    assert after == before + 1


def test_bodies_queries_and_secrets_are_not_in_it(server: JobServer) -> None:
    put_connection(server, "secretive")
    server.call("GET", f"{server.workspace}/jobs?api-version=2024-04-01&sig=signature-in-a-query")
    server._send("PUT", f"{server.workspace}/jobs/x?sig=signature-in-a-query", {"a": SECRET}, {})
    whole = json.dumps(records(server))
    assert "secretive" in whole
    for word in (SECRET, "signature-in-a-query", server.token()):
        assert word not in whole


def test_reads_and_results_of_jobs_are_not_recorded(server: JobServer) -> None:
    seen = len(records(server))
    server.call("GET", f"{server.workspace}/connections")
    server.call("POST", f"/mlflow/v2.0{server.workspace}/api/2.0/mlflow/runs/search", {})
    status, _ = server.call(
        "POST", f"/mlflow/v2.0{server.workspace}/api/2.0/mlflow/experiments/create", {"name": "e1"}
    )
    assert status == 200
    assert len(records(server)) == seen


def test_correlation_ids_and_user_agents_are_the_clients(server: JobServer) -> None:
    headers = {
        "Authorization": f"Bearer {server.token()}",
        "x-ms-correlation-request-id": "11111111-2222-3333-4444-555555555555",
        "User-Agent": "azsdk-python/1 " + "x" * 500,
    }
    server._send("DELETE", f"{server.workspace}/connections/none", None, headers)
    found = records(server, "&correlation=11111111-2222-3333-4444-555555555555")
    assert [r["status"] for r in found] == [204]
    assert found[0]["agent"].startswith("azsdk-python/1 ")
    assert len(found[0]["agent"]) == 200


def test_a_flood_of_refusals_is_counted(server: JobServer) -> None:
    before = records(server)[0]["seq"]
    with ThreadPoolExecutor(10) as pool:  # at once: one after the other, each may be on disk before the next
        list(pool.map(lambda _: server._send("PUT", f"{server.workspace}/jobs/flood", {}, {}), range(50)))
    found = [r for r in records(server) if r["seq"] > before]
    assert sum(r["count"] for r in found) == 50
    assert len(found) < 50


def test_pages_and_the_workspaces_own(server: JobServer) -> None:
    everything = [r["seq"] for r in records(server)]
    paged: list[int] = []
    after = ""
    while True:
        _, body = server.call("GET", f"/api/v1/activity?limit=3{after}")
        paged += [r["seq"] for r in body["value"]]
        if body["next"] is None:
            break
        after = f"&after={body['next']}"
    assert paged == everything
    own = server.native("activity?limit=1000")["value"]
    assert {r["scope"] for r in own} == {server.workspace}
    far = "9" * 30
    for bad in (
        "since=yesterday",
        "limit=0",
        "after=x",
        f"after={far}:1",
    ):
        assert server.call("GET", f"/api/v1/activity?{bad}")[0] == 400


def test_azures_activity_log(server: JobServer) -> None:
    put_connection(server, "in-azures-shape")
    sub = server.state["workspace"]["subscription"]
    path = f"/subscriptions/{sub}/providers/Microsoft.Insights/eventtypes/management/values"
    resource = f"{server.workspace}/connections/in-azures-shape"
    asked = f"eventTimestamp ge '2026-01-01T00:00:00Z' and resourceUri eq '{resource}'".replace(" ", "%20")
    status, body = server.call("GET", f"{path}?api-version=2015-04-01&$filter={asked}")
    assert status == 200, body
    found = body["value"][0]
    assert found["operationName"]["value"] == "Microsoft.MachineLearningServices/workspaces/connections/write"
    assert found["authorization"]["scope"] == server.workspace
    assert found["resourceGroupName"] == "tidemill"
    assert found["httpRequest"]["clientIpAddress"] == "127.0.0.1"
    assert found["status"]["value"] == "Succeeded"
    few = server.call("GET", f"{path}?$filter={asked}&$select=caller,level")[1]["value"][0]
    assert set(few) == {"caller", "level"}
    for bad in ("nonsense", "eventTimestamp%20ge%20'x'", "color%20eq%20'red'"):
        status, body = server.call("GET", f"{path}?$filter={bad}")
        assert status == 400
        assert body["error"]["target"] == "$filter"


def test_the_commands(server: JobServer) -> None:
    put_connection(server, "seen-by-the-command")
    table = server.cli("activity", "list", "--since", "1h", "--what", "connections/*")
    assert table.returncode == 0, table.stderr
    assert table.stdout.splitlines()[0].split()[:3] == ["WHEN", "WHO", "FROM"]
    listed = server.cli("activity", "list", "-o", "json", "--what", "connections/write", "-r", "1")
    assert json.loads(listed.stdout)[0]["resource"].endswith("seen-by-the-command")
    bad = server.cli("activity", "list", "--since", "soon")
    assert (bad.returncode, "30m, 2h, 7d" in bad.stderr) == (2, True)
    whole = server.cli("activity", "verify")
    assert whole.returncode == 0, whole.stderr
    head = next(line.split()[-1] for line in whole.stdout.splitlines() if line.startswith("head"))
    put_connection(server, "after-the-head")
    assert server.cli("activity", "verify", "--against", head).returncode == 0
    other = server.cli("activity", "verify", "--against", head[:-1] + ("0" if head[-1] != "0" else "1"))
    assert other.returncode == 1
    assert "has another hash" in other.stderr


def test_a_kill_loses_little_and_breaks_nothing(server: JobServer) -> None:
    put_connection(server, "before-the-kill")
    until(
        lambda: server.sql("SELECT 1 FROM activity WHERE resource LIKE '%/before-the-kill'"),
        what="the record on disk",
    )
    server.kill()
    server.start()
    assert any(r["resource"].endswith("/before-the-kill") for r in records(server))
    _, body = server.call("GET", "/api/v1/activity/verify")
    assert body["broken"] is None
    assert body["records"] == body["last"] > 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE activity SET actor_name = 'somebody else' WHERE seq = 3",
        "UPDATE activity SET outcome = 'Refused', status = 999 WHERE seq = 3",
        "DELETE FROM activity WHERE seq = 3",
    ],
)
def test_a_changed_record_is_named(server: JobServer, change: str) -> None:
    database = server.home / "db" / "tidemill.db"
    with closing(sqlite3.connect(database, timeout=30)) as db:
        saved = db.execute("SELECT * FROM activity WHERE seq = 3").fetchone()
        db.execute(change)
        db.commit()
        try:
            done = server.cli("activity", "verify")
        finally:
            db.execute("DELETE FROM activity WHERE seq = 3")
            db.execute(f"INSERT INTO activity VALUES ({', '.join('?' * len(saved))})", saved)
            db.commit()
    assert done.returncode == 1
    assert "Record 3: " in done.stderr
    assert server.cli("activity", "verify").returncode == 0


def test_a_cut_end_is_noticed(server: JobServer) -> None:
    last = records(server)[0]["seq"]
    with closing(sqlite3.connect(server.home / "db" / "tidemill.db", timeout=30)) as db:
        saved = db.execute("SELECT * FROM activity WHERE seq = ?", (last,)).fetchone()
        db.execute("DELETE FROM activity WHERE seq = ?", (last,))
        db.commit()
        done = server.cli("activity", "verify")
        db.execute(f"INSERT INTO activity VALUES ({', '.join('?' * len(saved))})", saved)
        db.commit()
    assert done.returncode == 1
    assert f"Record {last}: missing" in done.stderr


def test_oauths_refusals_are_refusals(server: JobServer) -> None:
    form = "grant_type=password&username=nobody&password=guess-1234&resource=https://management.azure.com/"
    connection = server.connection()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/adfs/oauth2/token", form, kind)
    assert connection.getresponse().status == 400
    connection.close()
    found = records(server, "&what=signIn&refused=true")[0]
    assert (found["code"], found["status"], found["who"]) == ("invalid_grant", 400, "anonymous")
    assert "guess-1234" not in json.dumps(records(server))


def test_what_the_data_process_refuses_is_in_it_once_also_after_a_kill(server: JobServer) -> None:
    import ssl
    import urllib.error
    import urllib.request

    from tidemill.server import launch

    account = server.account()
    base = f"{server.state['addresses']['data']}/{account}.blob.core.windows.net/azureml-blobstore"
    context = ssl.create_default_context(cafile=launch.variables(server.home)["SSL_CERT_FILE"])

    def refused(name: str) -> None:
        url = f"{base}/{name}?sv=2021-08-06&sig=forged-signature&sp=r&se=2030-01-01&sr=b"
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(url, timeout=60, context=context)
        assert error.value.code == 403

    def seen(name: str) -> int:
        found = [r for r in records(server, "&refused=true") if r["resource"].endswith(f"/{name}")]
        assert {r["scope"].lower() for r in found} <= {server.workspace.lower()}
        return sum(r["count"] for r in found)

    for _ in range(3):
        refused("not-mine.txt")
    until(lambda: seen("not-mine.txt") == 3, what="three refusals")
    server.kill()  # while it lives, it takes the file whenever it writes something
    refused("while-down.txt")
    spool = server.home / "db" / "data.refusals"
    until(lambda: spool.exists() and spool.read_bytes().endswith(b"\n"), what="the data process's note")
    # As if it had been killed between the commit and the removal of the file.
    kept = spool.read_bytes()
    server.start()
    until(lambda: seen("while-down.txt") == 1, what="the refusal")
    spool.with_name(spool.name + ".taken").write_bytes(kept)
    assert seen("while-down.txt") == 1
    assert not spool.with_name(spool.name + ".taken").exists()
    assert "forged-signature" not in json.dumps(records(server))
    assert server.call("GET", "/api/v1/activity/verify")[1]["broken"] is None
