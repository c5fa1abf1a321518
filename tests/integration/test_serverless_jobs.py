"""Jobs without a compute on a real server: nodes of their own, of which nothing is left."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from jobserver import JobServer, until


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
    until(lambda: left(server) == (0, 0, []), 15, "the end of every node")


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
