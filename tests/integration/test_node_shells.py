"""`tidemill ssh NODE`: a shell on a node of a compute, and what it does to jobs and to the node."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobserver import JobServer, until
from lines import begin, line, person, refused

IDLE_S = 2.0
OPERATOR = "AzureML Compute Operator"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("shells") / "home")
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def node(server: JobServer) -> str:
    """The one node of the cluster `kept`, idle between the tests."""
    server.cluster("kept", low=1, high=1)
    found = until(lambda: idle_nodes(server, "kept"), what="an idle node")[0]
    limits = found["limits"]["files"]
    if not limits["enforced"]:
        pytest.skip(f"no sandbox here: {limits['why_not']}")
    return str(found["id"])


def idle_nodes(server: JobServer, compute: str) -> list[dict[str, Any]]:
    found = server.native(f"computes/{compute}")["nodes_list"]
    return [node for node in found if node["state"] == "Idle"]


def exec_of(node: str, compute: str = "kept") -> str:
    return f"computes/{compute}/nodes/{node}/exec"


def visitors(server: JobServer, compute: str = "kept") -> list[Any]:
    return [v["who"] for node in server.native(f"computes/{compute}")["nodes_list"] for v in node["visitors"]]


def test_a_command_on_an_idle_node(server: JobServer, node: str) -> None:
    script = "echo on; hostname; ls -A; echo odd >&2; exit 7"
    done = server.cli("ssh", node, "--", "sh", "-c", script)
    assert (done.stderr, done.returncode) == ("odd\n", 7)
    said = done.stdout.splitlines()
    assert said[:2] == ["on", node]
    assert server.cli("ssh", node, "--", "cat", str(server.home / "config.json")).returncode == 1
    assert server.cli("ssh", node, "--", "test", "-e", "/sys/fs/cgroup").returncode == 1
    until(lambda: not visitors(server), what="the end of the shells")


def test_it_is_told_and_recorded(server: JobServer, node: str) -> None:
    server.cli("ssh", node, "--", "echo", "s3cr3t-word")

    def shells() -> list[str]:
        return [e["message"] for e in server.native("computes/kept")["timeline"] if "Shell" in e["code"]]

    until(lambda: shells() and shells()[-1].endswith(": exit code 0."), what="the event of its end")
    told = shells()
    assert f"opened a shell on node {node}" in told[-2]
    done = server.cli("activity", "list", "--max-results", "200", "--output", "json")
    assert "s3cr3t-word" not in done.stdout + "".join(told)
    records = [
        r for r in json.loads(done.stdout) if r["action"].endswith("/computes/applicationaccess/action")
    ]
    assert {r["method"] for r in records} >= {"END"}
    assert any(r["status"] == 101 and r["resource"].endswith(f"/nodes/{node}/exec") for r in records)


def test_what_is_no_node(server: JobServer, node: str) -> None:
    done = server.cli("ssh", "kept", "--", "true")
    assert (done.returncode, node in done.stderr) == (3, True)
    assert "is a compute" in done.stderr
    done = server.cli("ssh", node[:-1] + "x", "--", "true")
    assert done.returncode == 3
    assert f"Did you mean '{node}'" in done.stderr
    done = server.cli("ssh", node, "--node", "1", "--", "true")
    assert (done.returncode, "--node counts the nodes of a job" in done.stderr) == (2, True)
    server.cluster("other")
    status, error = refused(server, server.token(), exec_of(node, "other"))
    assert (status, error["code"]) == (404, "NodeNotFound")
    assert "It has no node open now." in error["message"]


def test_roles(server: JobServer, node: str) -> None:
    status, error = refused(server, person(server, "rita", "Reader"), exec_of(node))
    assert (status, error["code"]) == (403, "AuthorizationFailed")
    assert "computes/applicationaccess/action" in error["message"]
    with line(server, person(server, "otto", OPERATOR), exec_of(node)) as socket:
        begin(socket, "echo", "hello")
        assert socket.recv(60) == b"\x01hello\n"
        assert json.loads(socket.recv(60)) == {"exit": 0}


def test_a_job_comes(server: JobServer, node: str) -> None:
    """Who may not look inside it has gone before it starts; who may stays, and sees none of its files."""
    stranger = person(server, "olga", OPERATOR)
    scientist = person(server, "sue", "AzureML Data Scientist")
    with line(server, stranger, exec_of(node)) as foreign, line(server, scientist, exec_of(node)) as own:
        for socket in (foreign, own):
            begin(socket, "sh", "-c", "echo in; exec cat")
            assert socket.recv(60) == b"\x01in\n"
        assert sorted(visitors(server)) == ["olga", "sue"]
        command = "echo mine > only-the-jobs; echo up; sleep 600"
        name = server.submit("came", command, computeId=f"{server.workspace}/computes/kept")
        told = json.loads(foreign.recv(60))["error"]
        assert told["code"] == "SessionEnded"
        assert "came to run" in told["message"]
        server.until_state(name, "Running")
        assert visitors(server) == ["sue"]
        own.send(b"still\n")
        assert own.recv(60) == b"\x01still\n"
    server.until_log(name, "up")
    status, error = refused(server, stranger, exec_of(node))
    assert (status, "may not look inside" in error["message"]) == (403, True)
    with line(server, scientist, exec_of(node)) as socket:
        begin(socket, "sh", "-c", "find / -name only-the-jobs 2>/dev/null; ls -A; pgrep -c sleep")
        assert output(socket) == ".log\n1\n"  # its own sleep
    server.cancel(name)
    server.wait(name)
    until(lambda: idle_nodes(server, "kept"), what="an idle node again")


def running(seconds: str) -> bool:
    """Whether any `sleep SECONDS` lives on this host."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == f"sleep\0{seconds}\0".encode():
                return True
    return False


def output(socket: Any) -> str:
    text = ""
    while isinstance(message := socket.recv(60), bytes):
        text += message[1:].decode()
    return text


def test_it_counts_as_use(server: JobServer, node: str) -> None:
    """A node that would be closed as idle stays open while somebody is there, and closes after."""
    server.cluster("brief", low=1, high=1, idle=f"PT{IDLE_S:g}S")  # it stays until the shell is open
    mine = until(lambda: idle_nodes(server, "brief"), what="an idle node")[0]["id"]
    with line(server, server.token(), exec_of(mine, "brief")) as socket:
        begin(socket, "cat")
        until(lambda: visitors(server, "brief"))
        server.cluster("brief", high=1, idle=f"PT{IDLE_S:g}S")
        detail = server.native("computes/brief")
        assert "after the shell of" in detail["next_action"]
        assert f"shell of {detail['nodes_list'][0]['visitors'][0]['who']}" in (
            server.cli("compute", "show", "--name", "brief").stdout
        )
        opened = detail["nodes_list"][0]["since"]
        end = time.monotonic() + 1.5 * IDLE_S

        def used_past_its_idle_time() -> bool:
            found = idle_nodes(server, "brief")
            assert [n["id"] for n in found] == [mine]
            return time.monotonic() > end and found[0]["since"] > opened

        until(used_past_its_idle_time)
        socket.send(json.dumps({"end": True}))
        assert json.loads(socket.recv(60)) == {"exit": 0}
    until(lambda: not server.native("computes/brief")["nodes_list"], what="the close of the idle node")
    (billed,) = server.sql("SELECT ended_at - started_at FROM intervals WHERE id = ?", mine)
    assert billed[0] > 1.5 * IDLE_S * 1e6


def test_it_ends_with_the_node(server: JobServer, node: str) -> None:
    server.cluster("going", low=1, high=1)
    mine = until(lambda: idle_nodes(server, "going"), what="an idle node")[0]["id"]
    with line(server, server.token(), exec_of(mine, "going")) as socket:
        begin(socket, "sh", "-c", "echo in; exec sleep 600")
        assert socket.recv(60) == b"\x01in\n"
        server.cluster("going", low=0, high=0)
        told = json.loads(socket.recv(60))
        assert told["error"]["code"] in ("SessionEnded", "NodeNotOpen")
        assert "was closed" in told["error"]["message"]
    until(lambda: mine not in server.nodes(), what="the close of the node")


def test_nothing_is_left_of_it(server: JobServer, node: str) -> None:
    """Neither after its end nor after that of the server: a job finds an empty node."""
    left, later = (f"{number}.{os.getpid()}" for number in (98761, 98762))  # nobody else's on this host
    with line(server, server.token(), exec_of(node)) as socket:
        begin(socket, "sh", "-c", f"setsid sleep {left} & echo in; wait")
        assert socket.recv(60) == b"\x01in\n"
    until(lambda: not visitors(server) and not running(left), what="the end of what it left behind")
    held = line(server, server.token(), exec_of(node))
    begin(held, "sh", "-c", f"echo in; exec sleep {later}")
    assert held.recv(60) == b"\x01in\n"
    server.kill()
    server.start()
    work = server.home / "nodes" / node / "work"
    until(lambda: not running(later) and not list(work.glob("visit-*")), what="the end of the old shell")
    assert server.cli("ssh", node, "--", "echo", "again").stdout == "again\n"
