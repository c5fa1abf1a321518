"""Agents that die, servers that were away: an attempt ends when its processes are gone, and starts again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobserver import Follower, JobServer, alive, until

from pidspace import SAYS, WAITS, said
from tidemill.sandbox import disk

pytestmark = pytest.mark.kill

LIVES = SAYS + "; echo attempt $AZUREML_RUN_ATTEMPT; sleep 300"
SECOND_ENDS = SAYS + "; echo attempt $AZUREML_RUN_ATTEMPT; [ $AZUREML_RUN_ATTEMPT != 1 ] || sleep 300"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[JobServer]:
    server = JobServer(tmp_path / "home", cancel_grace_s=1.0, close_grace_s=1.0)
    server.start()
    server.cluster("cpu", high=2, idle="PT30M")
    yield server
    server.end()


def on(server: JobServer) -> dict:
    return {"computeId": f"{server.workspace}/computes/cpu"}


def running(server: JobServer, name: str, attempt: int = 1) -> tuple[str, int]:
    """-> (its node, its main process's pid) once the attempt has said so."""
    text = server.until_log(name, f"attempt {attempt}\n")
    node = server.job(name)["attempts_list"][-1]["nodes"][0]
    return node, said(text)


def processes_of(command: str) -> list[str]:
    return subprocess.run(["pgrep", "-xf", command], capture_output=True, text=True).stdout.split()


def test_a_killed_agent_costs_an_attempt_not_the_job(server):
    given = {"d": {"jobInputType": "literal", "value": "x"}}
    server.submit("hurt", SECOND_ENDS, inputs=given, **on(server))
    follower = Follower(server, "hurt")
    follower.start()
    node, pid = running(server, "hurt")
    os.kill(server.nodes()[node], signal.SIGKILL)
    began = time.monotonic()
    job = server.wait("hurt")
    print(f"ended {time.monotonic() - began:.2f} s after its agent was killed")
    assert job["status"] == "Completed"
    first, second = job["attempts_list"]
    assert (first["outcome"], second["outcome"]) == ("SystemFailure", "Succeeded")
    assert node not in second["nodes"]
    assert not alive(pid)
    lost = next(e for e in job["timeline"] if e["code"] == "NodeLost")
    assert node in lost["message"]
    assert "proved gone" in lost["message"]
    assert "tried again" in lost["message"]
    assert server.log("hurt").endswith("attempt 2\n")
    kept = server.stored("ExperimentRun/dcid.hurt/retries/", "azureml")
    assert kept["001/user_logs/std_log.txt"].endswith(b"attempt 1\n")
    server.check_ledger("hurt")
    until(lambda: node not in server.nodes(), what="the removal of the node's directory")
    follower.finished()
    assert "attempt 2\n" in follower.text
    assert follower.text.count("attempt 1\n") <= 1  # what was not streamed before the loss is in retries/


def test_the_new_attempt_waits_for_the_old_processes(server):
    """When there is a second attempt, none of the first's processes is left."""
    stubborn = f"sleep 98765.{os.getpid()}"  # nobody else's on this host
    command = (
        "if [ $AZUREML_RUN_ATTEMPT = 2 ]; then echo second; exit; fi; "
        f"for i in 1 2 3; do (trap '' TERM INT HUP; setsid {stubborn}) & done; "
        f"until [ $(pgrep -xfc '{stubborn}') = 3 ]; do sleep 0.01; done; " + SAYS + "; echo attempt 1; wait"
    )
    server.submit("orderly", command, **on(server))
    node, _ = running(server, "orderly")
    assert len(processes_of(stubborn)) == 3
    os.kill(server.nodes()[node], signal.SIGKILL)
    until(lambda: len(server.job("orderly")["attempts_list"]) == 2, what="the second attempt")
    assert not processes_of(stubborn)
    job = server.wait("orderly")
    assert job["status"] == "Completed", job["error"]
    assert server.log("orderly") == "second\n"


def test_the_third_system_failure_fails_the_job(server):
    server.submit("cursed", LIVES, **on(server))
    for attempt in (1, 2, 3):
        until(lambda n=attempt: len(server.job("cursed")["attempts_list"]) == n, what=f"attempt {attempt}")
        node, _ = running(server, "cursed", attempt)
        os.kill(server.nodes()[node], signal.SIGKILL)
    job = server.wait("cursed")
    assert job["status"] == "Failed"
    assert len(job["attempts_list"]) == 3
    assert "3 times" in job["error"]["message"]
    assert job["error"]["code"] == "NodeLost"
    assert server.log("cursed").endswith("attempt 3\n")
    server.check_ledger("cursed")


def test_an_agent_that_dies_while_the_server_is_away(server):
    server.submit("away", SECOND_ENDS, **on(server))
    node, pid = running(server, "away")
    server.kill()
    os.kill(server.nodes()[node], signal.SIGKILL)
    server.start()
    job = server.wait("away")
    assert [a["outcome"] for a in job["attempts_list"]] == ["SystemFailure", "Succeeded"]
    assert not alive(pid)
    server.check_ledger("away")


def test_a_node_whose_directory_is_gone(server):
    """A host that lost its disk, or a close that the killed server did not see: the attempt is lost."""
    server.submit("rootless", SECOND_ENDS, **on(server))
    node, pid = running(server, "rootless")
    server.kill()
    server.signal(server.nodes()[node], signal.SIGKILL)
    home = server.home / "nodes" / node
    disk.detach(f"{home}/work")
    for path in sorted(home.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    home.rmdir()
    server.start()
    job = server.wait("rootless")
    assert not alive(pid)
    assert [a["outcome"] for a in job["attempts_list"]] == ["SystemFailure", "Succeeded"]
    server.check_ledger("rootless")


def test_a_job_ends_while_the_server_is_down(server):
    """Stopped cleanly: the job goes on, and is collected by the next server."""
    outputs = {"o": {"jobOutputType": "uri_folder", "mode": "Upload"}}
    server.submit(
        "goes-on",
        f"{WAITS}echo b; echo kept > ${{{{outputs.o}}}}/f",
        outputs=outputs,
        **on(server),
    )
    pid = said(server.until_log("goes-on", "pid:"))
    server.down()
    os.kill(pid, signal.SIGUSR1)
    until(lambda: not alive(pid), what="its end")
    server.start()
    job = server.wait("goes-on")
    assert (job["status"], len(job["attempts_list"])) == ("Completed", 1)
    assert server.log("goes-on").endswith("\nb\n")
    assert server.stored("azureml/goes-on/o/") == {"f": b"kept\n"}
    server.check_ledger("goes-on")


def test_restart_with_queued_and_running_jobs_and_idle_nodes(server):
    server.cluster("one", high=1)
    one = {"computeId": f"{server.workspace}/computes/one"}
    server.submit("warm", "true", **on(server))
    server.wait("warm")
    idle = set(server.nodes())
    server.submit("first", SAYS + "; sleep 1.5; echo done", **one)
    server.until_log("first", "pid")
    for i in range(3):
        server.submit(f"queued-{i}", f"echo {i}", **one)
    server.kill()
    server.start()
    for name in ("first", "queued-0", "queued-1", "queued-2"):
        job = server.wait(name)
        assert (job["status"], len(job["attempts_list"])) == ("Completed", 1)
        server.check_ledger(name)
    assert idle <= set(server.nodes())  # an idle node stays
    server.submit("warm-again", "true", **on(server))
    assert set(server.wait("warm-again")["attempts_list"][0]["nodes"]) == idle


def test_cancelled_while_the_server_is_down(server):
    """A stop that was asked for just before a kill is carried out after the restart."""
    server.submit("stopped", "trap '' TERM; echo ready; while :; do sleep 0.1; done", **on(server))
    server.until_log("stopped", "ready")
    server.cancel("stopped")
    server.kill()
    server.start()
    job = server.wait("stopped")
    assert job["status"] == "Canceled"
    server.check_ledger("stopped")


def test_an_orphan_node_is_closed(server):
    server.submit("known", LIVES, **on(server))
    node, pid = running(server, "known")
    agent = server.nodes()[node]
    server.kill()
    with sqlite3.connect(server.home / "db" / "tidemill.db") as db:
        for table, column in (("nodes", "id"), ("intervals", "node_id")):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (node,))
        db.execute("DELETE FROM attempts WHERE CAST(nodes AS TEXT) LIKE ?", (f"%{node}%",))
        db.execute("DELETE FROM resources WHERE name = 'known' AND type_key = 'jobs'")
    db.close()
    server.start()
    until(lambda: not alive(agent) and not alive(pid), what="the end of the orphan")
    until(lambda: node not in os.listdir(server.home / "nodes"), what="the removal of its directory")


def test_an_orphan_attempt_is_stopped_and_its_node_stays(server):
    server.submit("forgotten", LIVES, **on(server))
    node, pid = running(server, "forgotten")
    server.kill()
    with sqlite3.connect(server.home / "db" / "tidemill.db") as db:
        db.execute("DELETE FROM attempts WHERE CAST(nodes AS TEXT) LIKE ?", (f"%{node}%",))
        db.execute("DELETE FROM intervals WHERE kind = 'allocation'")
        db.execute("DELETE FROM resources WHERE name = 'forgotten' AND type_key = 'jobs'")
        db.execute(
            "UPDATE nodes SET state = 'Idle', attempt_id = '', idle_since = created_at WHERE id = ?", (node,)
        )
    db.close()
    server.start()
    until(lambda: not alive(pid), what="the end of the orphan")
    server.submit("next", "true", **on(server))
    assert server.wait("next")["status"] == "Completed"
    left = server.home / "nodes" / node / "work"
    until(lambda: not left.exists() or not any("forgotten" in n for n in os.listdir(left)))
