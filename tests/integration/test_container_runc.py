"""Container groups by runc, of a real server that gave root up: as in the sandbox, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import test_container_groups as sandboxed
from containergroups import WEB, Groups, container, python
from imagemaker import need
from jobserver import JobServer, until
from test_container_groups import IN_ROOM, ROOM, asked, process_of

from tidemill.helper import nodedir
from tidemill.sandbox import cgroups, init

pytestmark = [
    pytest.mark.kill,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: runc makes containers of root's server alone"),
    pytest.mark.skipif(not init.program(os.uname().machine), reason="no init of ours for this machine"),
]


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Groups]:
    need("bwrap")
    need("runc")
    server = JobServer(tmp_path_factory.mktemp("runc") / "home", cancel_grace_s=2.0)
    server.start()
    made = Groups(server)
    made.tags = {"tidemill.runtime": "runc"}
    yield made
    server.end()


def left_of(groups: Groups) -> list[str]:
    """Mounts and control groups of nodes, in any process's view."""
    home = groups.server.home
    mounts: set[str] = set()
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        mounts |= {line.split()[4] for line in lines if f"{home}/nodes/" in line}
    return [*cgroups.stale(nodedir.group_name(nodedir.home_id(home), "container.")), *sorted(mounts)]


def gone(groups: Groups, *names: str) -> None:
    for name in names:
        groups.call("DELETE", name)
        groups.until_gone(name)


def parents_of(pid: int) -> str:
    """The command line of its parent."""
    status = Path(f"/proc/{pid}/status").read_text()
    parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    return Path(f"/proc/{parent}/cmdline").read_text().replace("\0", " ")


def test_a_group_from_its_creation_to_its_end(groups: Groups) -> None:
    prepare = container("prepare", "sh", "-c", "echo made by init > /room/word; id -u > /room/uid")
    del prepare["properties"]["resources"]
    prepare["properties"]["volumeMounts"] = IN_ROOM
    secure = [{"name": "GREETING", "value": "hi "}, {"name": "SECRET", "secureValue": "hush-runc"}]
    web = python("web", WEB + f"\n# {groups.mark}", ports=[{"port": 8080}], environmentVariables=secure)
    side = container("side", "sh", "-c", "cat /room/word /room/uid; id -u; cat /keys/k; sleep 600")
    side["properties"]["volumeMounts"] = [*IN_ROOM, {"name": "keys", "mountPath": "/keys"}]
    volumes = [*ROOM, {"name": "keys", "secret": {"k": "a2V5Cg=="}}]
    groups.put("whole", web, side, initContainers=[prepare], volumes=volumes)
    groups.until_state("whole", "Running")
    first = until(lambda: sandboxed._other(0, groups.mark), what="its process")  # pyright: ignore
    assert parents_of(first).startswith(f"{init.PATH} ")
    until(lambda: "web is up" in groups.logs("whole", "web"))
    assert asked(groups, "whole") == b"hi hush-runc"
    until(lambda: len(groups.logs("whole", "side").splitlines()) == 4)
    word, uid, own, key = groups.logs("whole", "side").splitlines()
    assert (word, key, uid == own) == ("made by init", "key", True)
    assert int(uid) >= 200_000

    cli = groups.server.cli
    inside = cli(
        "container", "exec", "--name", "whole", "-c", "web", "--", "sh", "-c", "echo $SECRET; exit 3"
    )
    assert (inside.stdout, inside.returncode) == ("hush-runc\n", 3)
    shown = cli("container", "show", "--name", "whole")
    assert any(line.split() == ["runtime", "runc"] for line in shown.stdout.splitlines()), shown.stdout
    assert groups.native("whole")["runtime"] == "runc"
    assert "<dt>Runtime</dt><dd>runc</dd>" in sandboxed.page_of(groups, "/whole")

    os.kill(first, signal.SIGKILL)
    groups.until("whole", lambda _: groups.view("whole")["restartCount"] == 1)
    view = groups.view("whole")
    assert view["previousState"]["exitCode"] == 137
    assert any("Ended by signal 9" in event["message"] for event in view["events"]), view["events"]
    until(lambda: groups.logs("whole", "web").count("web is up") == 2)
    assert asked(groups, "whole") == b"hi hush-runc"
    assert groups.view("whole", 1)["restartCount"] == 0

    process = process_of(groups.mark)
    gone(groups, "whole")
    until(lambda: not Path(f"/proc/{process}").exists(), what="its process's end")
    until(lambda: left_of(groups) == [], what="all of it to be gone")


def test_doctor_says_that_it_can(groups: Groups) -> None:
    done = groups.server.cli("doctor", "--output", "json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["runc"]["state"] == "ok"
    assert checks["runc"]["text"].endswith("runs container groups that ask for it")
    nodes = [path.name for path in (groups.server.home / "nodes").iterdir() if "trial" in path.name]
    assert nodes == [], "what it was tried on when the first group asked"


def test_more_memory_than_the_group_has_is_told(groups: Groups) -> None:
    eats = python("a", "b = bytearray(1 << 30)", memory=0.2)
    for name, tags in (("by-runc", groups.tags), ("by-sandbox", {})):
        held, groups.tags = groups.tags, tags
        groups.put(name, eats, restartPolicy="Never")
        groups.tags = held
    told = []
    for name in ("by-runc", "by-sandbox"):
        groups.until_state(name, "Failed")
        told.append([(e["name"], e["type"], e["message"]) for e in groups.view(name)["events"]])
    assert told[0] == told[1]
    assert "memory of its group was used up" in str(told[0])
    gone(groups, "by-runc", "by-sandbox")


def test_the_tag_is_what_runs_it(groups: Groups) -> None:
    code = "import os\nprint(os.path.exists('/proc/1/cmdline'))"  # the sandbox hides its own
    groups.tags = {"tidemill.runtime": "sandbox"}
    groups.put("moves", python("a", code), restartPolicy="Never")
    groups.until("moves", lambda _: groups.logs("moves", "a") == "False\n")
    groups.tags = {"tidemill.runtime": "runc"}
    groups.put("moves", python("a", code), restartPolicy="Never")
    groups.until("moves", lambda _: groups.logs("moves", "a") == "True\n")
    body = {"properties": {"containers": [python("a", code)]}, "tags": {"tidemill.runtime": "kata"}}
    status, answer = groups.call("PUT", "moves", body)
    assert (status, answer["error"]["code"], answer["error"]["target"]) == (
        400,
        "InvalidTag",
        "tags.tidemill.runtime",
    )
    gone(groups, "moves")


@pytest.mark.parametrize(
    "test",
    [
        sandboxed.test_init_containers_run_one_after_the_other_before_the_others,
        sandboxed.test_attach_prints_until_the_end,
        sandboxed.test_a_probe_that_fails_has_the_container_started_anew,
        sandboxed.test_it_outlives_a_kill_of_the_server_and_its_container_is_started_again_meanwhile,
        sandboxed.test_a_lost_node_is_replaced,  # after the one above
    ],
    ids=lambda test: test.__name__,
)
def test_as_in_the_sandbox(groups: Groups, test: Callable[[Groups], None]) -> None:
    test(groups)


def test_after_all_that_nothing_is_left(groups: Groups) -> None:
    """Of nodes that were lost, either."""
    gone(groups, "lasting")
    until(lambda: left_of(groups) == [], what="all of it to be gone")
