"""A server that was started as root and is not: who runs as what, what somebody gets who takes it over, and
that nothing is lost when the helper, the server or both are killed."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asserver import as_server, need_dropping, user_of
from jobserver import JobServer, alive, until

from tidemill.agent import protocol
from tidemill.domain.errors import Conflict
from tidemill.engines.base import EngineError
from tidemill.engines.helped import HelperHost
from tidemill.helper import nodedir
from tidemill.sandbox import cgroups, uids
from tidemill.server import launch

LONG = "echo started; sleep 3600"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    need_dropping(tmp_path_factory.mktemp("trial"))
    made = JobServer(tmp_path_factory.mktemp("dropped") / "home", cancel_grace_s=0.5)
    made.start()
    made.cluster("cpu", high=1)
    yield made
    made.end()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, server: JobServer) -> Iterator[JobServer]:
    """Somebody else's server on the same host, with a node."""
    made = JobServer(tmp_path_factory.mktemp("other") / "home")
    made.start()
    made.cluster("cpu", high=1)
    made.submit("theirs", LONG, computeId=f"{made.workspace}/computes/cpu")
    made.until_state("theirs", "Running")
    yield made
    made.end()


def running(server: JobServer, name: str) -> str:
    """Submits a job that goes on -> its node."""
    server.submit(name, LONG, computeId=f"{server.workspace}/computes/cpu")
    server.until_state(name, "Running")
    return next(iter(server.nodes()))


def helper_pids(server: JobServer) -> list[int]:
    return [int(word) for word in (server.home / "helper" / "lock").read_text().split()]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def argv_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")


def processes_of(server: JobServer) -> dict[int, tuple[list[str], int]]:
    """Every process that names the home in its command line: pid -> command line, user."""
    found: dict[int, tuple[list[str], int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            argv, user = argv_of(int(path.name)), user_of(int(path.name))
        except (OSError, StopIteration):  # it has ended
            continue
        if any(str(server.home) in word for word in argv):
            found[int(path.name)] = argv, user
    return found


# --- who is who


def test_only_the_helper_and_agents_are_root(server: JobServer) -> None:
    running(server, "who")
    words = {
        "server.control": "control",
        "server.data_process": "data",
        "server.gateway_process": "gateway",
        "helper/main.py": "helper",
    }

    def kinds() -> dict[str, list[int]]:
        seen: dict[str, list[int]] = {"control": [], "data": [], "gateway": [], "helper": [], "agent": []}
        for pid, (argv, user) in processes_of(server).items():
            line = " ".join(argv)
            kind = next((kind for word, kind in words.items() if word in line), "")
            kind = kind or ("agent" if argv[0] == "tidemill-agent" else "")
            if kind:
                seen[kind].append(pid)
            if user == 0:
                assert kind in ("helper", "agent"), line
        return seen

    there = {
        "control": [server.state["pid"]],
        "data": [server.state["data_pid"]],
        "gateway": [server.state["gateway_pid"]],
        "helper": sorted(helper_pids(server)),
    }
    # A fork looks like its parent for a moment, until it is something else.
    seen = until(
        lambda: (found := kinds()) and all(sorted(found[kind]) == there[kind] for kind in there) and found,
        what=f"no process but {there}",
    )
    assert next(iter(server.nodes().values())) in seen["agent"]
    claimed = uids.claimed(str(server.home))
    assert claimed is not None
    for pid in (*seen["control"], *seen["data"], *seen["gateway"]):
        status = status_of(pid)
        assert status["Uid"].split() == [str(claimed.first)] * 4
        assert status["Gid"].split() == [str(claimed.first)] * 4
        assert status["Groups"].split() == [str(claimed.first + 1)]
        assert status["NoNewPrivs"] == "1"
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
    server.cancel("who")
    server.wait("who")


def test_what_it_says_of_itself(server: JobServer) -> None:
    claimed = uids.claimed(str(server.home))
    assert claimed is not None
    said = launch.status(server.home)
    assert (said["uid"], said["why_root"]) == (claimed.first, "")
    assert f"uid {claimed.first}" in server.cli("status").stdout
    assert "gives root up" in server.cli("doctor").stdout


def test_builds_have_limits_of_their_own(server: JobServer) -> None:
    """The server may make control groups for what it starts, below its own and nowhere else."""

    def made() -> list[str]:
        groups, missing = cgroups.create("tidemill-build-trial")
        lines = cgroups.limit(groups, 0, 64 << 20, missing)
        child = os.fork()
        if child == 0:
            for directory in groups.directories():
                cgroups.write(f"{directory}/cgroup.procs", "0")
            signal.pause()
        until(lambda: cgroups.populated(groups.kill), what="the child in its group")
        cgroups.kill(groups.kill)
        os.waitpid(child, 0)
        for directory in groups.directories():
            until(lambda d=directory: cgroups.remove(d), what="an empty group")
        return [name for name in ("memory", "pids") if lines[name]["enforced"]]

    host = cgroups.hierarchies()
    wanted = [name for name in ("memory", "pids") if name in host]
    assert as_server(server.state["pid"], made) == wanted
    theirs = cgroups.hierarchies(f"/proc/{server.state['pid']}")
    assert all(theirs[name].own != host[name].own for name in wanted)


def test_a_second_start_says_that_the_home_is_in_use_and_disturbs_nothing(server: JobServer) -> None:
    before = helper_pids(server)
    with pytest.raises(Conflict, match=f"pid {server.state['pid']}"):
        launch.up(server.home, https_port=0, http_port=0, data_port=0)
    assert helper_pids(server) == before
    assert all(alive(pid) for pid in before)


# --- what somebody has who took it over


def reached(path: Path) -> str:
    """What came of reading it, or listing it."""
    try:
        return f"has {os.listdir(path) if path.is_dir() else path.read_bytes()[:20]!r}"
    except OSError as error:
        return type(error).__name__


def test_it_reads_no_file_outside(server: JobServer, other: JobServer, tmp_path: Path) -> None:
    own = tmp_path / "roots-own"
    own.write_text("secret")
    node = next(iter(other.nodes()))
    outside = [
        own, Path("/etc/shadow"), Path("/root/.bashrc"), other.home, other.home / "secrets" / "master.key",
        other.home / "nodes" / node / "work", other.home / "helper" / "sock",
        server.home / "nodes" / ".." / ".." / ".." / other.home.parent.name / "home" / "config.json",
        Path(f"/proc/{helper_pids(server)[0]}/environ"), Path(f"/proc/{other.state['pid']}/environ"),
        Path("/var/lib/tidemill/uids"),
    ]  # fmt: skip
    assert all(reached(path).startswith("has") for path in outside[:6])  # for root they are there
    found = as_server(server.state["pid"], lambda: {str(path): reached(path) for path in outside})
    assert set(found.values()) <= {"PermissionError", "FileNotFoundError"}, found


def test_it_reaches_no_node_of_another_home(server: JobServer, other: JobServer) -> None:
    theirs = next(iter(other.nodes()))

    def tried() -> list[str]:
        host, said = HelperHost(server.home), []
        for node in (theirs, f"../../{other.home.name}/nodes/{theirs}", str(other.home / "nodes" / theirs)):
            for ask in (host.connect, host.end_agent, host.remove, host.show):
                try:
                    said.append(f"{ask.__name__} {ask(node)!r}")
                except (EngineError, OSError) as error:
                    said.append(f"{ask.__name__} refused {error}"[:60])
        try:
            HelperHost(other.home).names()
            said.append("their helper answers")
        except EngineError:
            pass
        return said

    said = as_server(server.state["pid"], tried)
    # Of a node that is not there: ended, removed and shown already.
    assert [line for line in said if "refused" not in line] == [
        f"{verb} None" for verb in ("end_agent", "remove", "show")
    ]
    assert alive(other.nodes()[theirs])
    assert other.job("theirs")["status"] == "Running"


def test_it_runs_nothing_as_root(server: JobServer) -> None:
    def tried() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, call in {
            "setuid": lambda: os.setuid(0),
            "setgid": lambda: os.setgid(0),
            "setgroups": lambda: os.setgroups([0]),
            "chroot": lambda: os.chroot("/tmp"),
            "chown": lambda: os.chown(server.home / "config.json", 0, 0),
        }.items():
            try:
                call()
                found[name] = "done"
            except PermissionError:
                found[name] = "refused"
        su = subprocess.run(
            ["/bin/su", "-c", "id -u"], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        found["su"] = "done" if su.stdout.strip() == "0" else "refused"
        return found

    assert set(as_server(server.state["pid"], tried).values()) == {"refused"}


def test_it_neither_traces_nor_signals_the_helper_and_agents(server: JobServer) -> None:
    running(server, "traced")
    victims = [*helper_pids(server), *server.nodes().values()]

    def tried() -> list[str]:
        libc = ctypes.CDLL(None, use_errno=True)
        found: list[str] = []
        for pid in victims:
            found.append("attached" if libc.ptrace(16, pid, 0, 0) == 0 else "refused")  # PTRACE_ATTACH
            for what in ("mem", "environ", "fd", "root", "cwd"):
                found.append("open" if reached(Path(f"/proc/{pid}/{what}")).startswith("has") else "refused")
            try:
                os.kill(pid, signal.SIGTERM)
                found.append("signalled")
            except PermissionError:
                found.append("refused")
        return found

    assert set(as_server(server.state["pid"], tried)) == {"refused"}
    assert all(alive(pid) for pid in victims)
    server.cancel("traced")
    server.wait("traced")


def test_it_cannot_move_what_root_will_look_at(server: JobServer) -> None:
    def tried() -> list[str]:
        found: list[str] = []
        for name in ("nodes", "helper", "envs", "images", "tls", "logs", "secrets", "db", "blobs"):
            try:
                os.rename(server.home / name, server.home / f"{name}.away")
                found.append(f"{name} moved")
            except PermissionError:
                found.append("refused")
        for path in ("helper/lock", "nodes/x", "helper/sock"):
            try:
                os.close(os.open(server.home / path, os.O_WRONLY | os.O_CREAT, 0o600))
                found.append(f"{path} opened")
            except OSError:
                found.append("refused")
        return found

    assert set(as_server(server.state["pid"], tried)) == {"refused"}


def test_its_agents_start_nothing_outside_a_node(server: JobServer, other: JobServer) -> None:
    """What is asked of an agent that is one's own: other places for the log, other networks."""
    node = running(server, "asked")
    theirs = json.loads(
        (other.home / "nodes" / next(iter(other.nodes())) / "agent/journal").open().readline()
    )
    agent = server.nodes()[node]
    host_net = os.stat("/proc/self/ns/net").st_ino
    fds = {fd for fd in os.listdir(f"/proc/{agent}/fd") if _inode(agent, fd) == host_net}
    assert fds  # it holds the host's network, to return to
    networks = [
        {"pid": agent, "net": int(next(iter(fds))), "user": -1, "inode": host_net},
        theirs["network"],
    ]
    work = f"{server.home}/nodes/{node}/work"

    def order(number: int, **more: Any) -> dict[str, Any]:
        return {
            "id": 1, "verb": "start", "attempt": f"x{number}", "rank": 0, "epoch": 1, "argv": ["/bin/true"],
            "cwd": "/", "log_path": f"{work}/log{number}", "term_grace_s": 1.0, "timeout_s": 5.0,
            "gpu_ids": [], "kind": "batch", "rootfs": "", "read_only": [], "env": {}, "devices": [], **more,
        }  # fmt: skip

    def tried() -> list[str]:
        found: list[str] = []
        logs = ("/etc/x", f"{work}/../../x", f"{work}/../agent/x", "/tmp/x")
        orders = [order(i, log_path=path) for i, path in enumerate(logs)]
        orders += [order(10 + i, network=space) for i, space in enumerate(networks)]
        for request in orders:
            with HelperHost(server.home).connect(node) as link:
                link.settimeout(60)
                link.sendall(protocol.encode({"id": 0, "verb": "watch", "since": 0}))
                link.sendall(protocol.encode(request))
                found.append(_outcome(link, request["attempt"]))
        return found

    said = as_server(server.state["pid"], tried)
    assert all("below the node's work" in line or "cannot be opened" in line for line in said[:4]), said
    assert "the host's own network" in said[4]
    assert "network of the attempt's first node" in said[5]
    server.cancel("asked")
    server.wait("asked")


def _inode(pid: int, fd: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/fd/{fd}").st_ino
    except OSError:
        return 0


def _outcome(link: socket.socket, attempt: str) -> str:
    """The refusal, or the message of the task's exit."""
    decoder = protocol.Decoder()
    while True:
        for message in decoder.feed(link.recv(1 << 16)):
            if "error" in message:
                return str(message["error"]["message"])
            event = message.get("event", {})
            if event.get("attempt") == attempt and event["kind"] == "task_exited":
                return str(event["message"])


# --- kills


def test_a_killed_helper_comes_back_and_nothing_is_lost(server: JobServer) -> None:
    running(server, "goes-on")
    agents = server.nodes()
    starter, answering = helper_pids(server)
    os.kill(answering, signal.SIGKILL)
    until(lambda: helper_pids(server)[1] != answering, what="another helper")
    assert helper_pids(server)[0] == starter
    assert server.nodes() == agents
    server.cancel("goes-on")
    assert server.wait("goes-on")["status"] == "Canceled"
    server.submit("after", "echo done", computeId=f"{server.workspace}/computes/cpu")
    assert server.wait("after")["status"] == "Completed"


def test_agents_outlive_server_and_helper(server: JobServer) -> None:
    server.submit("outlives", "echo one; sleep 2; echo two", computeId=f"{server.workspace}/computes/cpu")
    server.until_log("outlives", "one")
    agents = server.nodes()
    for pid in (*helper_pids(server), server.state["data_pid"]):
        os.kill(pid, signal.SIGKILL)
    server.kill()
    assert all(alive(pid) for pid in agents.values())
    server.start()
    assert server.wait("outlives")["status"] == "Completed"
    assert server.log("outlives") == "one\ntwo\n"
    assert server.nodes() == agents
    of_job = "SELECT id FROM attempts WHERE job_uid = (SELECT uid FROM resources WHERE name = ?)"
    assert len(server.sql(of_job, "outlives")) == 1


def test_without_a_helper_new_nodes_fail_with_the_way_out(server: JobServer) -> None:
    pids = helper_pids(server)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids), what="the end of the helper")

    def asked() -> str:
        try:
            return str(HelperHost(server.home).names())
        except EngineError as error:
            return str(error)

    assert "restart the server" in as_server(server.state["pid"], asked)
    server.down()
    server.start()
    server.submit("again", "echo done", computeId=f"{server.workspace}/computes/cpu")
    assert server.wait("again")["status"] == "Completed"


def test_down_ends_the_helper_and_a_stop_as_well(server: JobServer) -> None:
    pids = helper_pids(server)
    server.down()
    assert not any(alive(pid) for pid in pids)
    assert cgroups.stale("tidemill-server-" + nodedir.home_id(server.home)) == []
    server.start()
    pids = helper_pids(server)
    os.kill(server.state["pid"], signal.SIGTERM)
    until(lambda: not any(alive(pid) for pid in pids), what="the end of the helper")
    server.down()
    server.start()


# --- homes that were there before


def test_a_home_that_a_root_server_made(tmp_path: Path) -> None:
    """Its job goes on, what it stored can be read, and links in it are left alone."""
    need_dropping(tmp_path)
    old = JobServer(tmp_path / "home")
    old.start(keep_root=True)
    try:
        assert user_of(old.state["pid"]) == 0
        assert "--keep-root" in old.cli("status").stdout
        old.cluster("cpu", high=1)
        done = old.submit("done", "echo kept", computeId=f"{old.workspace}/computes/cpu")
        old.wait(done)
        old.submit("long", "echo one; sleep 4; echo two", computeId=f"{old.workspace}/computes/cpu")
        old.until_log("long", "one")
        target = tmp_path / "elsewhere"
        target.write_text("root's")
        (old.home / "db" / "link").symlink_to(target)
        (old.home / "link").symlink_to(target)
        old.down()
        old.start()
        assert user_of(old.state["pid"]) != 0
        assert old.log("done") == "kept\n"
        assert old.wait("long")["status"] == "Completed"
        assert old.log("long") == "one\ntwo\n"
        assert target.stat().st_uid == 0
        assert {path.lstat().st_uid for path in (old.home / "secrets").iterdir()} == {
            user_of(old.state["pid"])
        }
        old.kill()  # its data process goes on, and is root's no more than it is kept as another user
        old.start(keep_root=True)
        assert user_of(old.state["data_pid"]) == 0
        old.kill()
        old.start()
        assert user_of(old.state["data_pid"]) == user_of(old.state["pid"]) != 0
        old.submit("new", "echo new", computeId=f"{old.workspace}/computes/cpu")
        assert old.wait("new")["status"] == "Completed"
    finally:
        old.end()
