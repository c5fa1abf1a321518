"""Container groups of a real server: restart policies, kills, volumes, what they cost, who may do what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from accessclient import token_for
from containergroups import WEB, Groups, python
from imagemaker import need
from jobserver import JobServer, until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.kill

ROOT = Path(__file__).resolve().parents[2]
ROOM = [{"name": "room", "emptyDir": {}}]
IN_ROOM = [{"name": "room", "mountPath": "/room"}]
TWICE = """
import os
path = "/room/n"
n = int(open(path).read()) if os.path.exists(path) else 0
open(path, "w").write(str(n + 1))
print("start", n, flush=True)
raise SystemExit(0 if n == 2 else 3)
"""


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Groups]:
    need("bwrap")
    server = JobServer(tmp_path_factory.mktemp("groups") / "home", cancel_grace_s=2.0)
    server.start()
    yield Groups(server)
    server.end()


def asked(groups: Groups, name: str, port: int = 8080, token: str = "") -> bytes:
    """GET / of a port of the group, over the line of `tidemill container port-forward`."""
    base = groups.server.state["addresses"]["http"].replace("http://", "ws://")
    headers = {"Authorization": f"Bearer {token or groups.server.token()}"}
    path = f"/api/v1{groups.base}/containerGroups/{name}/ports/{port}"
    with connect(f"{base}{path}", additional_headers=headers, proxy=None, open_timeout=60) as line:
        line.send(b"GET / HTTP/1.0\r\n\r\n")
        heard = b""
        for message in line:
            if isinstance(message, str):
                break
            heard += message
    return heard.split(b"\r\n\r\n", 1)[1]


def answer(groups: Groups, name: str) -> bytes | None:
    """None: it does not listen yet."""
    try:
        return asked(groups, name)
    except InvalidStatus as refused:
        if refused.response.status_code == 409:
            return None
        raise


def process_of(word: str) -> int:
    """The pid of the process that was started with `word` in its command line (not its sandbox's)."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"python" in words[0].rsplit(b"/", 1)[-1] and any(word.encode() in one for one in words[1:]):
            return int(path.name)
    raise AssertionError(f"no process has {word!r}")


def test_restart_policies(groups: Groups) -> None:
    groups.put("always", python("a", "print('again', flush=True)"), restartPolicy="Always")
    groups.put("failing", python("a", TWICE, volumeMounts=IN_ROOM), restartPolicy="OnFailure", volumes=ROOM)
    groups.put("once", python("a", "raise SystemExit(5)", memory=0.7), restartPolicy="Never")

    once = groups.until_state("once", "Failed")
    assert once["provisioningState"] == "Succeeded"
    view = once["containers"][0]["properties"]["instanceView"]
    assert (view["restartCount"], view["currentState"]["exitCode"]) == (0, 5)
    began = view["currentState"]["startTime"]

    done = groups.until_state("failing", "Succeeded")
    view = done["containers"][0]["properties"]["instanceView"]
    assert (view["restartCount"], view["currentState"]["exitCode"]) == (2, 0)
    assert view["previousState"]["exitCode"] == 3
    assert groups.logs("failing", "a") == "start 0\nstart 1\nstart 2\n"

    told = groups.native("once")
    assert [one["message"] for one in told["timeline"] if one["code"] == "Failed"] == [
        "Ended: a with exit code 5."
    ]
    assert "Completed" not in [one["code"] for one in told["timeline"]]
    assert told["memory_gib"] == 0.7
    assert [one["message"] for one in groups.native("once/why")["reasons"]] == [
        "a (Terminated): Ended with exit code 5."
    ]
    assert groups.native("failing/why")["reasons"] == []
    assert "Its containers have ended with exit code 0." in [
        one["message"] for one in groups.native("failing")["timeline"] if one["code"] == "Succeeded"
    ]

    groups.until("always", lambda _: groups.view("always")["restartCount"] >= 2)
    assert groups.get("always")["instanceView"]["state"] == "Running"
    # What has ended by itself holds no node; it starts again when it is told to.
    for name in ("once", "failing"):
        until(
            lambda n=name: (
                not groups.server.sql(
                    "SELECT 1 FROM nodes WHERE id LIKE ? AND state <> 'Closed'", f"container.{n}-%"
                )
            ),
            what="the node's close",
        )
    assert groups.call("POST", "once/start")[0] == 202
    groups.until("once", lambda _: groups.view("once")["currentState"].get("startTime", began) != began)
    groups.until_state("once", "Failed")
    for name in ("always", "failing", "once"):
        assert groups.call("DELETE", name)[0] == 202
        groups.until_gone(name)


def pages_of(groups: Groups) -> str:
    where = groups.server.state["workspace"]
    return f"/ui/{where['subscription']}/{where['group']}/{where['name']}/containers"


def page_of(groups: Groups, path: str = "") -> str:
    status, found = groups.server.call("GET", pages_of(groups) + path)
    assert status == 200, found
    return found.decode()


def first(name: str, code: str) -> dict[str, object]:
    given = python(name, code, volumeMounts=IN_ROOM)
    return {"name": name, "properties": {k: v for k, v in given["properties"].items() if k != "resources"}}


def test_init_containers_run_one_after_the_other_before_the_others(groups: Groups) -> None:
    flaky = "import os\nn = os.path.exists('/room/n')\nopen('/room/n', 'w')\nraise SystemExit(0 if n else 7)"
    order = "open('/room/order', 'a').write('{}'); print('{}')"
    main = python("main", "print(open('/room/order').read())", volumeMounts=IN_ROOM)
    init = [first("one", order.format("one ", "one")), first("two", flaky)]
    groups.put("staged", main, restartPolicy="OnFailure", volumes=ROOM, initContainers=init)
    done = groups.until_state("staged", "Succeeded")
    views = [one["properties"]["instanceView"] for one in done["initContainers"]]
    assert [view["currentState"]["exitCode"] for view in views] == [0, 0]
    assert [view["restartCount"] for view in views] == [0, 1]
    assert groups.logs("staged", "main") == "one \n"
    assert groups.logs("staged", "one") == "one\n"
    begun = [view["currentState"]["startTime"] for view in views]
    begun.append(groups.view("staged")["currentState"]["startTime"])
    assert begun == sorted(begun)
    groups.call("DELETE", "staged")


def test_an_init_container_that_fails_fails_the_group(groups: Groups) -> None:
    init = [first("bad", "print('no such thing'); raise SystemExit(9)")]
    main = python("main", "print('never')")
    groups.put("broken", main, restartPolicy="Never", volumes=ROOM, initContainers=init)
    found = groups.until("broken", lambda found: found["provisioningState"] == "Failed")
    assert found["instanceView"]["state"] == "Failed"
    message = groups.server.call("GET", f"/api/v1{groups.base}/containerGroups/broken")[1]["error"]["message"]
    assert "exit code 9" in message
    assert "no such thing" in message
    assert groups.logs("broken", "main") == ""
    shown = page_of(groups, "/broken")
    assert shown.index("<h3>bad</h3>") < shown.index("Error, exit code 9") < shown.index("<h3>main</h3>")
    assert shown.count("<option>") == shown.count("<option>main</option>") == 1  # whose shell is offered
    groups.call("DELETE", "broken")


TICKS = """
import pathlib, time
while not pathlib.Path("/room/go").exists():
    print("tick", flush=True)
    time.sleep(0.05)
print("the end")
"""


def test_attach_prints_until_the_end(groups: Groups) -> None:
    groups.put("short", python("a", TICKS, volumeMounts=IN_ROOM), restartPolicy="Never", volumes=ROOM)
    groups.until_state("short", "Running")
    tidemill = str(Path(sys.executable).with_name("tidemill"))
    argv = [tidemill, "--home", str(groups.server.home), "container", "attach", "--name", "short"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as attached:
        assert attached.stdout is not None
        assert attached.stdout.readline() == "tick\n"
        go = groups.server.cli("container", "exec", "--name", "short", "--", "touch", "/room/go")
        assert go.returncode == 0, go.stderr
        rest, _ = attached.communicate(timeout=60)
    assert rest.endswith("tick\nthe end\n")
    assert attached.returncode == 0
    groups.until_state("short", "Succeeded")
    groups.call("DELETE", "short")


def test_a_probe_that_fails_has_the_container_started_anew(groups: Groups) -> None:
    hangs = "import time\nprint('up', flush=True)\ntime.sleep(1000)"
    probe = {"httpGet": {"port": 9, "path": "/"}, "periodSeconds": 1, "failureThreshold": 1}
    groups.put("sick", python("a", hangs, livenessProbe=probe))
    groups.until("sick", lambda _: groups.view("sick")["restartCount"] >= 1)
    names = {event["name"]: event for event in groups.view("sick")["events"]}
    assert names["Killing"]["type"] == "Warning"
    assert "liveness probe failed" in names["Killing"]["message"]
    groups.call("DELETE", "sick")


def test_it_outlives_a_kill_of_the_server_and_its_container_is_started_again_meanwhile(
    groups: Groups,
) -> None:
    server = groups.server
    code = WEB + f"\n# {groups.mark}"
    secret = [{"name": "GREETING", "value": "hi "}, {"name": "SECRET", "secureValue": "hush-1"}]
    groups.put("lasting", python("web", code, ports=[{"port": 8080}], environmentVariables=secret))
    groups.until("lasting", lambda found: found["provisioningState"] == "Succeeded")
    first = until(lambda: _other(0, groups.mark), what="its process")
    until(lambda: "web is up" in groups.logs("lasting", "web"))
    assert asked(groups, "lasting") == b"hi hush-1"
    nodes = server.sql("SELECT id FROM nodes WHERE id LIKE 'container.lasting-%'")

    server.kill()
    os.kill(first, signal.SIGKILL)
    second = until(lambda: _other(first, groups.mark), what="its node to start it again")
    server.start()

    groups.until("lasting", lambda _: groups.view("lasting")["restartCount"] == 1)
    assert groups.view("lasting")["previousState"]["exitCode"] == 137
    until(lambda: groups.logs("lasting", "web").count("web is up") == 2)
    assert asked(groups, "lasting") == b"hi hush-1"  # the secret was not lost with the server
    assert process_of(groups.mark) == second
    assert server.sql("SELECT id FROM nodes WHERE id LIKE 'container.lasting-%'") == nodes
    for (node,) in nodes:
        assert b"hush-1" not in (server.home / "nodes" / node / "agent" / "journal").read_bytes()


def _other(pid: int, word: str) -> int | None:
    try:
        found = process_of(word)
    except AssertionError:
        return None
    return found if found != pid else None


def test_a_lost_node_is_replaced(groups: Groups) -> None:
    """After the one above: the group still runs."""
    server = groups.server
    (before,) = server.sql("SELECT id FROM nodes WHERE id LIKE 'container.lasting-%' AND state = 'Running'")
    os.kill(server.nodes()[before[0]], signal.SIGKILL)
    groups.until(
        "lasting",
        lambda _: server.sql(
            "SELECT id FROM nodes WHERE id LIKE 'container.lasting-%' AND state = 'Running' AND id <> ?",
            before[0],
        ),
    )
    groups.until_state("lasting", "Running")


def test_a_stopped_group_has_no_node_and_costs_nothing(groups: Groups) -> None:
    def bill() -> tuple[float, float]:
        path = f"/api/v1{groups.base}/containerGroups/lasting"
        found = groups.server.call("GET", path)[1]
        return found["run_rate_usd_hour"], found["cost_usd"]

    until(lambda: "web is up" in groups.logs("lasting", "web"))
    assert bill()[0] > 0
    assert groups.call("POST", "lasting/stop")[0] == 204
    assert groups.get("lasting")["instanceView"]["state"] == "Stopped"
    rate, before = bill()
    assert rate == 0.0
    assert before > 0
    time.sleep(0.05)  # that time passes is the point
    assert bill() == (0.0, before)
    assert not groups.server.sql(
        "SELECT 1 FROM nodes WHERE id LIKE 'container.lasting-%' AND state <> 'Closed'"
    )
    assert "web is up" in groups.logs("lasting", "web")  # what it wrote is still there
    groups.server.kill()
    groups.server.start()
    assert groups.get("lasting")["instanceView"]["state"] == "Stopped"
    rotated = groups.server.cli("keys", "rotate", "--master")
    assert rotated.returncode == 0, rotated.stderr
    until(lambda: _master_keys(groups) == 1, what="everything sealed anew")
    assert groups.call("POST", "lasting/start")[0] == 202
    groups.until_state("lasting", "Running")
    until(lambda: "web is up" in groups.logs("lasting", "web"))
    assert asked(groups, "lasting") == b"hi hush-1"


def _master_keys(groups: Groups) -> int:
    found = groups.server.call("GET", "/api/v1/keys")[1]["value"]
    return sum(one["kind"] == "master" for one in found)


def test_roles(groups: Groups) -> None:
    """A reader of the resource group sees a group, and gets neither in nor its port."""
    server = groups.server

    def access(*words: str) -> dict[str, object]:
        done = server.cli("access", *words, "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    made = access("create-user", "rita")
    access("grant", "rita", "Reader", "--scope", groups.base)
    token = token_for(server.home, server.state, made)

    def as_reader(method: str, path: str, body: object = None) -> int:
        where = f"{groups.base}/providers/Microsoft.ContainerInstance/containerGroups/lasting{path}"
        headers = {"Authorization": f"Bearer {token}"}
        return server._send(method, f"{where}?api-version=2023-05-01", body, headers)[0]

    assert as_reader("GET", "") == 200
    assert as_reader("GET", "/containers/web/logs") == 200
    for verb in ("/stop", "/restart", "/containers/web/exec", "/containers/web/attach"):
        assert as_reader("POST", verb, {"command": "sh"}) == 403
    assert as_reader("DELETE", "") == 403
    with pytest.raises(InvalidStatus) as refused:
        asked(groups, "lasting", token=token)
    assert refused.value.response.status_code == 403


def test_pages(groups: Groups) -> None:
    """What the portal shows of the group above; the shell is tried in a browser."""
    page = partial(page_of, groups)
    assert ">lasting</a>" in page()
    shown = page("/lasting")
    assert "tidemill container port-forward --name lasting 8080" not in shown  # it has no address
    assert "data-line=" in shown
    until(lambda: "web is up" in page("/lasting/logs/web"))
    assert "hush-1" not in shown
    assert groups.server.call("GET", pages_of(groups) + "/nothing")[0] == 404


def test_the_file_of_the_tutorial(groups: Groups, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tutorials" / "container-groups.md").read_text()
    (tmp_path / "group.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    done = groups.server.cli("container", "create", "--file", "group.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    groups.until("front", lambda _: groups.view("front", 1)["currentState"]["state"] == "Terminated")
    groups.until_state("front", "Running")
    assert until(lambda: answer(groups, "front"), what="its web server's answer") == b"hello\n"
    again = groups.server.cli("container", "create", "--file", "group.yaml", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert groups.view("front", 1)["currentState"]["state"] == "Terminated", "the same again changes nothing"


def test_blobs_of_a_workspace_as_a_volume(groups: Groups) -> None:
    server = groups.server
    server.upload("numbers", {"a/one.txt": "1", "two.txt": "2"})
    code = (
        "import os\nprint(open('/blobs/a/one.txt').read(), sorted(os.listdir('/blobs')))\n"
        "try:\n  open('/blobs/three', 'w')\nexcept OSError as e:\n  print(e.strerror)\n"
    )
    where = {"shareName": "azureml-blobstore/numbers", "storageAccountName": server.account()}
    share = {**where, "readOnly": True}
    mounts = [{"name": "blobs", "mountPath": "/blobs"}]
    volumes = [{"name": "blobs", "azureFile": share}]
    groups.put("reads", python("a", code, volumeMounts=mounts), restartPolicy="Never", volumes=volumes)
    groups.until_state("reads", "Succeeded")
    assert groups.logs("reads", "a") == "1 ['a', 'two.txt']\nRead-only file system\n"
    wrong = {**share, "shareName": "none"}
    body = {"properties": {"containers": [python("a", code)], "volumes": [{"name": "b", "azureFile": wrong}]}}
    status, answer = groups.call("PUT", "wrong", body)
    assert (status, answer["error"]["code"]) == (400, "ShareNotFound")
