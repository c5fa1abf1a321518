"""Jobs without a compute on a real server: nodes of their own, of which nothing is left."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import pytest
from jobserver import JobServer, until

from receivers import HookReceiver, MailServer


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("serverless") / "home")
    server.start()
    yield server
    server.end()


def left(server: JobServer) -> tuple[int, int, list[str]]:
    """Nodes that are not closed, computes for one purpose, node directories."""
    with sqlite3.connect(f"file:{server.home}/db/tidemill.db?mode=ro", uri=True) as db:
        nodes = db.execute("SELECT count(*) FROM nodes WHERE state <> 'Closed'").fetchone()[0]
        rows = db.execute("SELECT count(*) FROM resources WHERE type = 'implicitComputes'").fetchone()[0]
    return nodes, rows, [path.name for path in (server.home / "nodes").glob("serverless-*")]


def nothing_left(server: JobServer) -> None:
    until(lambda: left(server) == (0, 0, []), what="the end of every node")


def test_it_runs_on_a_node_of_its_own_which_goes_with_it(alone):
    alone.submit("alone", "echo $(nproc) && echo $TIDEMILL_NODE", computeId=None)
    job = alone.wait("alone")
    assert (job["status"], job["compute"]) == ("Completed", "serverless")
    assert job["serverless"] == "Standard_DS3_v2"
    assert job["price"]["size"] == "Standard_DS3_v2"
    assert job["price"]["usd"] > 0
    alone.check_ledger("alone")
    assert all(node.startswith("serverless-") for node in job["attempts_list"][0]["nodes"])
    assert alone.native("computes")["value"] == []
    nothing_left(alone)
    shown = alone.cli("job", "show", "-n", "alone").stdout
    assert "serverless: nodes of Standard_DS3_v2, for this job alone" in shown


def test_killed_while_it_runs_it_goes_on_and_nothing_is_left(alone):
    alone.submit("kept", "echo begun; sleep 3; echo done", computeId=None)
    alone.until_log("kept", "begun")
    (node,) = alone.job("kept")["attempts_list"][0]["nodes"]
    alone.kill()
    assert left(alone)[2] == [node]
    alone.start()
    job = alone.wait("kept")
    assert (job["status"], job["attempts"]) == ("Completed", 1)
    assert alone.log("kept") == "begun\ndone\n"
    alone.check_ledger("kept")
    nothing_left(alone)


def test_killed_as_it_opens_and_as_it_ends(alone):
    for name, state in (("early", "Provisioning"), ("late", "Completed")):
        alone.submit(name, "true", computeId=None)
        alone.until_state(name, state, "Starting", "Running", "Completed")
        alone.kill()
        alone.start()
        assert alone.wait(name)["status"] == "Completed"
        nothing_left(alone)


def test_validate_and_a_list_of_sizes_from_yaml(alone, tmp_path):
    file = tmp_path / "job.yml"
    file.write_text(
        "command: echo hi\nenvironment: {image: 'python:3.11'}\ncompute: serverless\n"
        "resources: {instance_type: [Standard_NC6s_v3, Standard_DS1_v2], instance_count: 2}\n"
        "queue_settings: {job_tier: spot}\n"
    )
    said = alone.cli("validate", "-f", str(file))
    assert "2 nodes of Standard_DS1_v2 on serverless, $" in said.stdout, said.stderr
    made = alone.cli("job", "create", "-f", str(file), "-n", "listed")
    assert made.returncode == 0, made.stderr
    job = alone.wait("listed")
    assert (job["status"], job["serverless"]) == ("Completed", "Standard_DS1_v2")
    assert any("Not on Standard_NC6s_v3." in entry["message"] for entry in job["timeline"])
    nothing_left(alone)


# --- nodes that stay for a look


def kept(server: JobServer, name: str) -> dict | None:
    return server.job(name)["kept"]


def test_a_look_at_what_a_failed_job_left(alone, tmp_path):
    file = tmp_path / "job.yml"
    file.write_text(
        "command: echo half > half.txt; echo out > outputs/result.txt; exit 3\n"
        "environment: {image: 'python:3.11'}\nenvironment_variables: {GREETING: hello}\n"
        "queue_settings: {priority: low}\n"
    )
    made = alone.cli("job", "create", "-f", str(file), "-n", "broken", "--keep-on-failure", "10m")
    assert made.returncode == 0, made.stderr
    job = alone.wait("broken")
    assert job["status"] == "Failed"
    assert job["kept"]["usd_hour"] == pytest.approx(0.293, rel=0.2)
    (node,) = job["kept"]["nodes"]
    inside = "pwd; cat half.txt outputs/result.txt; echo $GREETING; echo more > seen.txt"
    looked = alone.cli("ssh", "broken", "--", "sh", "-c", inside)
    assert looked.returncode == 0, looked.stderr
    assert looked.stdout.splitlines()[1:] == ["half", "out", "hello"]
    shown = alone.cli("job", "show", "-n", "broken").stdout
    assert re.search(rf"{node} for (10|9) min \d\d s more", shown), shown
    assert "so far at $0.2" in shown
    assert "tidemill job release --name broken" in shown
    assert "tidemill job release --name broken" in alone.cli("job", "why", "-n", "broken").stdout

    alone.kill()
    alone.start()
    assert kept(alone, "broken")["nodes"] == [node]
    looked = alone.cli("ssh", node, "--", "cat", "seen.txt")  # by the node's name
    assert looked.stdout == "more\n", looked.stderr
    released = alone.cli("job", "release", "-n", "broken")
    assert released.returncode == 0, released.stderr
    assert kept(alone, "broken") is None
    nothing_left(alone)
    alone.check_ledger("broken", kept=True)
    again = alone.cli("job", "release", "-n", "broken")
    assert "keeps no nodes" in again.stderr
    gone = alone.cli("ssh", "broken", "--", "true")
    assert "has ended (Failed)" in gone.stderr


def test_its_time_passes_while_the_server_is_down(alone):
    alone.submit("late-look", "exit 1", computeId=None, properties={"tidemill.keep_on_failure": "6s"})
    alone.wait("late-look")
    assert kept(alone, "late-look") is not None
    alone.kill()
    until(lambda: left(alone)[2], what="the node stays without a server")
    alone.start()
    nothing_left(alone)
    assert any(e["code"] == "NodesReleased" for e in alone.job("late-look")["timeline"])


# --- told at the end


def test_told_of_the_end_over_a_kill_of_the_server(alone, tmp_path):
    with MailServer() as mail, HookReceiver() as receiver:
        port = str(mail.port)
        words = (
            "--smtp-host",
            "127.0.0.1",
            "--smtp-port",
            port,
            "--security",
            "none",
            "--sender",
            "t@example.org",
        )
        assert alone.cli("notifications", "set", *words, "--webhooks", "127.0.0.1").returncode == 0
        tried = alone.cli("notifications", "test", "--email", "ann@example.org", "--webhook", receiver.url)
        assert tried.returncode == 0, tried.stderr
        assert (mail.recipients, [post["event"] for post in receiver.posts]) == (
            ["ann@example.org"],
            ["Test"],
        )
        told = {"tidemill.notify": f"ben@example.org {receiver.url}", "tidemill.notify_on": "JobFailed"}
        alone.submit("told", "echo begun; sleep 2; exit 4", computeId=None, properties=told)
        alone.until_log("told", "begun")
        alone.kill()
        alone.start()
        assert alone.wait("told")["status"] == "Failed"
        until(lambda: len(receiver.posts) == 2 and len(mail.messages) == 2, what="both messages")
        assert receiver.posts[1]["job"]["name"] == "told"
        assert "exit code 4" in mail.messages[1].get_payload()
        until(lambda: sum(e["code"] == "NotificationSent" for e in alone.job("told")["timeline"]) == 2)
    refused = alone.cli(
        "notifications",
        "test",
        "--webhook",
        alone.state["addresses"]["http"].replace("127.0.0.1", "localhost"),
    )
    assert "is not on the list of what webhooks may reach" in refused.stderr
    assert "password" not in alone.cli("notifications", "show").stdout
