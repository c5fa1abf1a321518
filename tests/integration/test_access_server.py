"""Several people on one server: what each sees and may, through HTTP and the command line."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest
from accessclient import ask, token_for
from jobserver import JobServer

SCIENTIST = "AzureML Data Scientist"


class Team:
    def __init__(self, server: JobServer) -> None:
        self.server = server
        self.tokens: dict[str, str] = {}
        self.people: dict[str, dict[str, Any]] = {}

    def cli(self, *words: str, ok: bool = True) -> Any:
        done = self.server.cli("access", *words, "--output", "json")
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        if not ok and not done.stdout.strip():
            return json.loads(done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def make(self, name: str, kind: str = "user") -> str:
        self.people[name] = self.cli(f"create-{kind}", name)
        self.tokens[name] = token_for(self.server.home, self.server.state, self.people[name])
        return name

    def ask(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return ask(self.server.state, self.tokens[who], method, path, body)

    def status(self, who: str, method: str, path: str, body: Any = None) -> int:
        return self.ask(who, method, path, body)[0]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    server = JobServer(tmp_path_factory.mktemp("team") / "home")
    server.start()
    server.cluster("cpu", high=1)
    status, _ = server.call("PUT", f"{other(server)}?api-version=2024-10-01", {"location": "eastus"})
    assert status in (200, 201)
    found = Team(server)
    for name in ("ann", "bob"):
        found.make(name)
    yield found
    server.end()


def other(server: JobServer) -> str:
    return server.workspace.rsplit("/", 1)[0] + "/other"


def test_who_has_no_role_sees_and_reaches_nothing(team):
    ws = team.server.workspace
    for method, path in (
        ("GET", ws),
        ("GET", f"{ws}/jobs"),
        ("POST", f"{ws}/listKeys"),
        ("PUT", f"{ws}/jobs/x"),
        ("DELETE", ws),
        ("GET", f"/api/v1{ws}/jobs"),
        ("GET", f"/mlflow/v2.0{ws}/api/2.0/mlflow/experiments/get?experiment_id=0"),
        ("GET", "/ui/" + "/".join(team.server.state["workspace"].values()) + "/jobs"),
        ("GET", f"/history/v1.0{ws}/runs/x"),
        ("GET", "/api/v1/access/principals"),
        ("POST", "/api/v1/access/principals"),
    ):
        status, body = team.ask("ann", method, path, {} if method in ("PUT", "POST") else None)
        assert status == 403, (method, path, body)
    assert b"has no role at" in json.dumps(team.ask("ann", "GET", ws)[1]).encode()


def test_a_role_on_one_workspace_opens_no_other(team):
    team.cli("grant", "ann", SCIENTIST)
    ws = team.server.workspace
    assert team.status("ann", "GET", ws) == 200
    assert team.status("bob", "GET", ws) == 403
    assert team.status("ann", "GET", other(team.server)) == 403
    assert team.status("ann", "GET", other(team.server).upper()) == 403
    assert team.status("ann", "POST", f"{ws}/listKeys") == 403
    cluster = {"location": "eastus", "properties": {"computeType": "AmlCompute", "properties": {}}}
    status, body = team.ask("ann", "PUT", f"{ws}/computes/mine", cluster)
    assert (status, body["error"]["code"]) == (403, "AuthorizationFailed")
    assert "computes/write" in body["error"]["message"]
    job = {"properties": {"jobType": "Command", "command": "true", "computeId": f"{ws}/computes/cpu"}}
    assert team.status("ann", "PUT", f"{ws}/jobs/anns", job) in (200, 201)
    assert team.status("ann", "DELETE", f"{ws}/computes/cpu") == 403


@pytest.mark.parametrize(
    "trick",
    [
        "{ws}%2Fcomputes",
        "{parent}/main%2F..%2Fother",
        "{parent}/%2e%2e/other",
        "{parent}/other%00",
        "{parent}/other%0a",
        "{parent}//other",
        "{parent}/other/",
        "{parent}/OTHER",
        "{rg}/providers/Microsoft.MachineLearningServices%2Fworkspaces%2Fmain/workspaces/other",
        "{sub}/resourceGroups/tidemill%2Fproviders%2FMicrosoft.MachineLearningServices%2Fworkspaces%2Fmain"
        "/providers/Microsoft.MachineLearningServices/workspaces/other",
    ],
)
def test_forged_scopes_reach_no_further(team, trick):
    parent = team.server.workspace.rsplit("/", 1)[0]
    rg = parent.split("/providers/")[0]
    path = trick.format(ws=team.server.workspace, parent=parent, rg=rg, sub=rg.split("/resourceGroups/")[0])
    for tail in ("", "/jobs"):
        status, body = team.ask("ann", "GET", path + tail)
        assert status in (400, 403, 404), (path, status, body)


def test_losing_a_role_counts_on_the_next_request(team):
    team.make("eve")
    ws = team.server.workspace
    team.cli("grant", "eve", "Reader", "--scope", "group")
    assert team.status("eve", "GET", ws) == 200
    team.cli("revoke", "eve", "Reader", "--scope", "group")
    assert team.status("eve", "GET", ws) == 403
    team.cli("create-group", "readers")
    team.cli("grant", "readers", "Reader")
    team.cli("add-member", "readers", "eve")
    assert team.status("eve", "GET", f"{ws}/jobs") == 200
    team.cli("disable", "eve")
    assert team.status("eve", "GET", f"{ws}/jobs") == 401
    team.cli("enable", "eve")
    assert team.status("eve", "GET", f"{ws}/jobs") == 200
    team.cli("remove-member", "readers", "eve")
    assert team.status("eve", "GET", f"{ws}/jobs") == 403
    team.cli("delete", "eve")
    assert team.status("eve", "GET", "/subscriptions") == 401


def test_losing_a_role_ends_a_stream_that_is_open(team):
    team.make("fay")
    ws = team.server.workspace
    team.cli("grant", "fay", "Reader")
    code = "import time\nfor n in range(3000): print('line', n, flush=True); time.sleep(0.1)"
    team.server.submit("chatty", f'python3 -c "{code}"')
    connection = team.server.connection()
    try:
        headers = {"Authorization": f"Bearer {team.tokens['fay']}"}
        connection.request("GET", f"/api/v1{ws}/jobs/chatty/stream", headers=headers)
        reply = connection.getresponse()
        assert reply.status == 200
        while b"line 3" not in reply.readline():
            pass
        team.cli("revoke", "fay", "Reader")
        began = time.monotonic()
        rest = reply.read()  # until it is cut off
        assert time.monotonic() - began < 30  # the job would go on for minutes
        assert b"event: end" not in rest
        assert team.server.job("chatty")["status"] == "Running"
    finally:
        connection.close()
        team.server.cancel("chatty")
    assert team.status("fay", "GET", f"/api/v1{ws}/jobs/chatty/stream") == 403


def test_a_role_on_a_single_compute(team):
    team.make("max")
    team.cli("grant", "max", "AzureML Compute Operator", "--scope", "computes/CPU")
    ws = team.server.workspace
    assert team.status("max", "GET", f"{ws}/computes/cpu") == 200
    assert team.status("max", "GET", f"{ws}/computes/cpu2") == 403
    assert team.status("max", "GET", f"{ws}/jobs") == 403
    assert team.status("max", "GET", ws) == 403
    team.server.cluster("hidden", high=1)
    for path in (f"{ws}/computes?api-version=2024-04-01", f"/api/v1{ws}/computes"):
        status, listed = team.ask("max", "GET", path)
        assert (status, [one["name"] for one in listed["value"]]) == (200, ["cpu"])


def test_operations_are_followed_by_who_may_see_what_they_are_about(team):
    """Their addresses lie at the subscription, where most people have no role."""
    team.make("ops")
    team.make("out")
    team.cli("grant", "ops", "AzureML Compute Operator")
    ws = team.server.workspace
    cluster = {"location": "eastus", "properties": {"computeType": "AmlCompute", "properties": {}}}
    cluster["properties"]["properties"] = {"vmSize": "Standard_DS1_v2", "scaleSettings": {"maxNodeCount": 1}}
    path = f"{ws}/computes/theirs?api-version=2024-04-01"
    assert team.status("ops", "PUT", path, cluster) in (200, 201)
    with sqlite3.connect(f"file:{team.server.home}/db/tidemill.db?mode=ro", uri=True) as db:
        ((uid,),) = db.execute("SELECT uid FROM resources WHERE type = 'computes' AND name = 'theirs'")
    base = f"{ws.split('/resourceGroups/')[0]}/providers/Microsoft.MachineLearningServices/locations/eastus"
    for kind in ("OperationsStatus", "OperationResults"):
        where = f"{base}/compute{kind}/ready:{uid}?api-version=2024-04-01"
        assert team.status("ops", "GET", where) == 200
        assert team.status("out", "GET", where) == 403
    assert team.status("ops", "DELETE", path) in (200, 202, 204)


def test_lists_show_what_one_may_see(team):
    """Workspaces by role on them, jobs by role on single ones; in every dialect."""
    team.make("kim")
    ws, api = team.server.workspace, "api-version=2024-04-01"
    group = ws.split("/providers/")[0]
    for name in ("shown", "secret"):
        job = {
            "properties": {"jobType": "Command", "command": "echo hello", "computeId": f"{ws}/computes/cpu"}
        }
        assert team.server.arm("PUT", f"jobs/{name}", job)[0] in (200, 201)
    subscription = group.split("/resourceGroups/")[0]
    provider = "providers/Microsoft.MachineLearningServices/workspaces"
    lists = [f"{group}/{provider}?{api}", f"{subscription}/{provider}?{api}"]
    assert [team.status("kim", "GET", path) for path in lists] == [403, 403]
    status, body = team.ask("kim", "GET", "/api/v1/status")
    assert (status, body["workspaces"], body["queued"], body["running"]) == (200, [], 0, 0)
    assert team.status("kim", "GET", f"{ws}/jobs?{api}") == 403
    team.cli("grant", "kim", "Reader", "--scope", other(team.server))
    for path in lists:
        status, body = team.ask("kim", "GET", path)
        assert (status, [one["name"] for one in body["value"]]) == (200, ["other"])
    assert [one["name"] for one in team.ask("kim", "GET", "/api/v1/status")[1]["workspaces"]] == ["other"]
    team.cli("grant", "kim", "Reader", "--scope", "jobs/shown")
    assert team.status("kim", "GET", f"{ws}/jobs/shown?{api}") == 200
    assert team.status("kim", "GET", f"{ws}/jobs/secret?{api}") == 403
    for path in (f"{ws}/jobs?{api}", f"/api/v1{ws}/jobs"):
        status, body = team.ask("kim", "GET", path)
        assert (status, [one["name"] for one in body["value"]]) == (200, ["shown"])
    page = "/ui/" + "/".join(team.server.state["workspace"].values()) + "/jobs"
    status, body = team.ask("kim", "GET", page)
    assert (status, b"shown" in body, b"secret" in body) == (200, True, False)
    assert team.status("kim", "GET", page + "/secret") == 403
    # The addresses of logs need no token, and end with the role of whom they were made for.
    team.server.wait("shown")
    status, details = team.ask("kim", "GET", f"/history/v1.0{ws}/runs/shown/details")
    assert status == 200
    link = next(iter(details["logFiles"].values()), "").split("/signed/")[1]
    assert ask(team.server.state, "", "GET", f"/signed/{link}")[0] == 200
    me = team.server.call("GET", "/api/v1/access/me")[1]["oid"]
    forged = link.replace(team.people["kim"]["oid"], me)
    assert ask(team.server.state, "", "GET", f"/signed/{forged}")[0] == 401
    team.cli("revoke", "kim", "Reader", "--scope", "jobs/shown")
    assert ask(team.server.state, "", "GET", f"/signed/{link}")[0] == 403


def test_losing_a_role_closes_the_blob_door_too(team):
    from azure.core.exceptions import ClientAuthenticationError
    from azure.storage.blob import BlobServiceClient

    team.make("zoe")
    ws = team.server.workspace
    team.cli("grant", "zoe", SCIENTIST)
    secrets = f"{ws}/datastores/workspaceblobstore/listSecrets?api-version=2024-10-01"
    status, given = team.ask("zoe", "POST", secrets, {})
    assert status == 200
    assert given != team.server.call("POST", secrets, {})[1]  # nobody else has that key
    status, store = team.ask("zoe", "GET", f"{ws}/datastores/workspaceblobstore?api-version=2024-10-01")
    where = store["properties"]
    client = BlobServiceClient(
        f"https://{where['accountName']}.blob.core.windows.net",
        credential=given["key"],
        connection_verify=str(team.server.home / "tls" / "ca.pem"),
        retry_total=0,
    )
    box = client.get_container_client(where["containerName"])
    box.upload_blob("a", b"1", overwrite=True)
    team.cli("revoke", "zoe", SCIENTIST)
    with pytest.raises(ClientAuthenticationError):
        box.download_blob("a")
    team.cli("grant", "zoe", SCIENTIST)  # a new assignment: the old key stays dead
    with pytest.raises(ClientAuthenticationError):
        box.download_blob("a")
    assert team.ask("zoe", "POST", secrets, {})[1] != given
    team.make("leo")
    team.cli("grant", "leo", "Contributor", "--scope", "datastores/workspaceblobstore")
    status, refused = team.ask("leo", "POST", secrets, {})
    assert (status, "whole storage account" in refused["error"]["message"]) == (403, True)


WHO_AM_I = """
import json, os, urllib.error, urllib.request
from urllib.parse import urlsplit
place = urlsplit(os.environ["MLFLOW_TRACKING_URI"])
base, ws = f"{place.scheme}://{place.netloc}", place.path.removeprefix("/mlflow/v2.0")
def ask(method, path, body=None):
    token = os.environ["MLFLOW_TRACKING_TOKEN"]
    head = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        return urllib.request.urlopen(urllib.request.Request(base + path, data, head, method=method)).status
    except urllib.error.HTTPError as error:
        return error.code
tags = {"properties": {"tags": {"by": "job"}}}
print("SAW", ask("GET", ws + "/jobs?api-version=2024-04-01"), ask("PATCH", ws + "/jobs/anns", tags),
      ask("POST", ws + "/listKeys"), ask("DELETE", ws), os.environ["MLFLOW_TRACKING_TOKEN"])
"""


def test_a_job_acts_as_what_its_identity_says(team):
    """By itself it changes no other job; with its submitter's roles it may, and no more than those."""
    ws, told = team.server.workspace, {}
    code = team.server.code("who", {"who.py": WHO_AM_I})
    for name, identity in (("plain", {}), ("user", {"identity": {"identityType": "UserIdentity"}})):
        properties = {"jobType": "Command", "command": "python3 who.py", "codeId": code, **identity}
        properties["computeId"] = f"{ws}/computes/cpu"
        assert team.status("ann", "PUT", f"{ws}/jobs/acts-{name}", {"properties": properties}) in (200, 201)
        assert team.server.wait(f"acts-{name}")["status"] == "Completed"
        log = team.server.call("GET", f"/api/v1{ws}/jobs/acts-{name}/logs/user_logs/std_log.txt")[1].decode()
        told[name] = next(line for line in log.splitlines() if line.startswith("SAW")).split()[1:]
    assert told["plain"][:4] == ["200", "403", "403", "403"]
    assert told["user"][:4] == ["200", "200", "403", "403"]
    for one in told.values():  # both jobs have ended
        assert ask(team.server.state, one[4], "GET", ws)[0] == 401
    nobody = {"identity": {"identityType": "Managed"}, "computeId": f"{ws}/computes/cpu"}
    body = {"properties": {"jobType": "Command", "command": "true", **nobody}}
    status, refused = team.ask("ann", "PUT", f"{ws}/jobs/acts-managed", body)
    assert (status, refused["error"]["code"]) == (400, "IdentityNotFound")


def test_explain(team):
    yes = team.cli("explain", "ann", "jobs/write")
    assert yes["allowed"]
    (step,) = yes["steps"]
    assert (step["role"], step["allows"], step["assignment"]) == (SCIENTIST, True, yes["assignment"])
    assert step["verdict"] == "allows it by 'Microsoft.MachineLearningServices/workspaces/*/write'"
    no = team.cli("explain", "ann", "computes/write", "computes/cpu", ok=False)
    assert not no["allowed"]
    assert no["steps"][0]["verdict"].startswith("excepts it by 'Microsoft.Mach")
    assert "AzureML Compute Operator" in no["would_allow"]
    shown = team.server.cli("access", "explain", "ann", "job/wirte").stderr
    assert "Did you mean" in shown
    assert "jobs/write" in shown
    text = team.server.cli("access", "explain", "ann", "jobs/write").stdout
    assert text.startswith("ann may Microsoft.MachineLearningServices/workspaces/jobs/write")
    assert f"> {SCIENTIST} at workspace main: allows it" in text
    # Anybody may ask about oneself, by name, too; about others only with the right to read roles.
    oid = team.ask("ann", "GET", "/api/v1/access/me")[1]["oid"]
    for who, expected in (("ann", 200), ("ANN", 200), (oid, 200), ("", 200), ("bob", 403), ("nobody", 403)):
        body = {"who": who, "action": "a/b", "scope": team.server.workspace}
        assert team.status("ann", "POST", "/api/v1/access/explain", body) == expected
    wrong = team.server.cli("access", "explain", "ann", "jobs/write", "worksapce")
    assert (wrong.returncode, "Did you mean 'workspace'" in wrong.stderr) == (2, True)
    wrong = team.server.cli("access", "grant", "ann", "AzureML Data Scietist")
    assert (wrong.returncode, f"Did you mean '{SCIENTIST}'" in wrong.stderr) == (3, True)
    wrong = team.server.cli("access", "grant", "anne", "Reader")
    assert (wrong.returncode, "Did you mean 'ann'" in wrong.stderr) == (3, True)


def test_the_owner_of_a_workspace_gives_and_shows_roles_there_without_seeing_everybody(team):
    lea = team.make("lea")
    ws = team.server.workspace
    team.cli("grant", lea, "Owner")
    native = f"/api/v1{ws}/access"
    status, found = team.ask(lea, "GET", f"{native}/principals/bob")
    assert (status, found["oid"]) == (200, team.people["bob"]["oid"])
    status, rows = team.ask(lea, "GET", f"{native}/assignments?who=lea")
    assert [(row["who"], row["role"]) for row in rows["value"]] == [("lea", "Owner")]
    status, answer = team.ask(lea, "GET", f"{native}/principals/bo")
    assert status == 404
    assert "bob" not in answer["error"]["message"], "near names are for who may list people"
    for path in (f"{native}/assignments", f"{native}/principals/lea"):
        assert team.status("bob", "GET", path) == 403
        assert team.status(lea, "GET", path.replace(ws, other(team.server))) == 403
    assert team.status(lea, "GET", "/api/v1/access/principals") == 403
    team.cli("revoke", lea, "Owner")
    # About oneself one may ask by one's name, too.
    status, answer = team.ask(lea, "POST", "/api/v1/access/explain", {"who": "Lea", "action": "x/read"})
    assert (status, answer["allowed"]) == (200, False)


def test_what_everybody_may_ask_tells_nobody_which_workspaces_there_are(team):
    ws = team.server.workspace
    permissions = "providers/Microsoft.Authorization/permissions"
    team.make("nobody")
    there, not_there = (
        team.ask("nobody", "GET", f"{path}/{permissions}?api-version=2022-04-01")
        for path in (ws, ws.rsplit("/", 1)[0] + "/guessed")
    )
    assert there == not_there == (200, {"value": []})
    status, answer = team.server.call("GET", f"{ws}x/{permissions}?api-version=2022-04-01")
    assert (status, "Did you mean" in answer["error"]["message"]) == (404, True)


def test_questions_about_rights_are_no_writes(team):
    newest = "/api/v1/activity?who=ann&limit=1"
    before = team.server.call("GET", newest)[1]["value"][0]["seq"]
    body = {"action": "x/read"}
    assert team.status("ann", "POST", "/api/v1/access/explain", body) == 200
    check = f"{team.server.workspace}/providers/Microsoft.Authorization/checkAccess?api-version=2022-04-01"
    assert team.status("ann", "POST", check, {"Actions": [{"Id": "x/read"}]}) == 200
    assert team.server.call("GET", newest)[1]["value"][0]["seq"] == before


def test_what_a_handler_refuses_is_recorded_with_the_action_that_it_asked_for(team):
    asked = {"action": "x/read", "who": "lea"}
    assert team.status("ann", "POST", "/api/v1/access/explain", asked) == 403
    _, found = team.server.call("GET", "/api/v1/activity?refused=true&who=ann&limit=1")
    assert [r["action"] for r in found["value"]] == ["Microsoft.Authorization/roleAssignments/read"]


def test_the_last_owner_stays_and_can_hand_over(team):
    status, me = team.server.call("GET", "/api/v1/access/me")
    assert status == 200
    for words in (
        ("revoke", me["name"], "Owner", "--scope", "subscription"),
        ("disable", me["name"]),
        ("delete", me["name"]),
    ):
        refused = team.cli(*words, ok=False)
        assert refused["error"]["code"] == "LastOwner"
    assert team.server.call("GET", team.server.workspace)[0] == 200


def test_lists_and_answers_about_oneself(team):
    rows = team.cli("list", "--scope", "subscription")
    assert {row["role"] for row in rows if row["principal"] == "ann"} == {SCIENTIST}
    assert [row["principal"] for row in team.cli("list", "--who", "ann")] == ["ann"]
    assert {"Owner", "Reader"} <= {row["name"] for row in team.cli("list", "--roles")}
    assert {"ann", "bob"} <= {row["name"] for row in team.cli("list", "--principals")}
    status, body = team.ask("ann", "POST", "/api/v1/access/explain", {"action": "x/read"})
    assert (status, body["allowed"]) == (200, False)
    asked = {"action": "x/read", "who": "bob"}
    assert team.status("ann", "POST", "/api/v1/access/explain", asked) == 403
    assert team.status("ann", "GET", "/api/v1/access/me") == 200
