"""A level of isolation that is required, and a host or a server that does not give it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobserver import JobServer, until

from tidemill.domain.errors import TidemillError
from tidemill.server import helper_process, launch


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("plain") / "home", isolation="plain")
    server.start()
    server.cluster("cpu", high=1)
    yield server
    server.end()


def test_a_job_says_what_it_needs_by_a_tag(plain: JobServer) -> None:
    on = {"computeId": f"{plain.workspace}/computes/cpu"}
    status, answer = plain.put_job("strict", "true", tags={"tidemill.isolation": "rootless"}, **on)
    assert (status, answer["error"]["code"]) == (409, "IsolationNotMet")
    message = answer["error"]["message"]
    assert "Isolation rootless is required, this host gives plain." in message
    assert "files, namespaces, syscalls (switched off: this server runs with isolation plain)" in message
    assert "tidemill doctor" in message
    status, answer = plain.put_job("unclear", "true", tags={"tidemill.isolation": "very"}, **on)
    assert (status, answer["error"]["target"]) == (400, "properties.tags.tidemill.isolation")
    assert "'very': use one of plain, rootless, full" in answer["error"]["message"]
    plain.submit("content", "echo ran", tags={"tidemill.isolation": "plain"}, **on)
    done = plain.wait("content")
    assert done["status"] == "Completed"
    (line,) = [e["message"] for e in done["timeline"] if e["message"].startswith("Isolation: ")]
    assert line.startswith("Isolation: plain. Not enforced: ")


def test_a_compute_says_what_its_jobs_need_by_a_tag(plain: JobServer) -> None:
    scale = {"minNodeCount": 0, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT60S"}
    properties = {"vmSize": "Standard_DS2_v2", "scaleSettings": scale}
    body = {"location": "eastus", "properties": {"computeType": "AmlCompute", "properties": properties}}
    status, answer = plain.arm("PUT", "computes/shut", {**body, "tags": {"tidemill.isolation": "full"}})
    assert status in (200, 201), answer
    on = {"computeId": f"{plain.workspace}/computes/shut"}
    status, answer = plain.put_job("any", "true", **on)
    assert (status, answer["error"]["code"]) == (409, "IsolationNotMet")
    status, answer = plain.put_job("less", "true", tags={"tidemill.isolation": "plain"}, **on)
    assert status == 409, "a job may not ask for less than its compute"
    status, answer = plain.arm("PUT", "computes/odd", {**body, "tags": {"tidemill.isolation": "none"}})
    assert (status, answer["error"]["target"]) == (400, "tags.tidemill.isolation")


def test_a_server_that_does_not_get_ready_is_ended_with_its_helper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"

    def too_late(*_: object) -> None:
        helper = home / "helper" / "lock"
        until(lambda: launch.holder(home / "lock") and (os.geteuid() or helper.exists()), what="its lock")
        until(lambda: os.geteuid() or helper.read_bytes(), what="the pids of its helper")

    monkeypatch.setattr(launch, "_read_line", too_late)
    with pytest.raises(TidemillError, match="The server did not start"):
        launch.up(home, https_port=0, http_port=0, data_port=0, detach=True)
    left = launch.holder(home / "lock"), helper_process.stop(home)
    launch.down(home)
    assert left == (None, [])


def test_a_server_that_requires_more_than_its_host_gives_does_not_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ports = {"https_port": 0, "http_port": 0, "data_port": 0}
    with pytest.raises(TidemillError, match="full is required, this host gives plain") as refused:
        launch.up(home, isolation="plain", require_isolation="full", detach=True, **ports)
    assert "namespaces" in refused.value.message
    assert launch.status(home)["up"] is False
    assert helper_process.stop(home) == []  # nothing of root's was left running
    launch.up(home, isolation="plain", require_isolation="none", detach=True, **ports)
    launch.down(home)
    config = json.loads((home / "config.json").read_text())
    assert (config["isolation"], config["require_isolation"]) == ("plain", "")
    (home / "config.json").write_text(json.dumps({**config, "isolation": "best"}))
    with pytest.raises(TidemillError, match="'best'"):
        launch.up(home, detach=True, **ports)


def test_doctor_says_what_a_node_here_enforces(plain: JobServer) -> None:
    found = json.loads(plain.cli("doctor", "--output", "json").stdout)
    checks = {check["name"]: check for check in found["checks"]}
    assert {"cpu", "memory", "pids", "uid", "files", "namespaces", "syscalls", "network", "disk"} <= set(
        checks
    )
    assert found["isolation"] in ("plain", "rootless", "full")
    for check in checks.values():
        assert check["state"] in ("ok", "missing", "unproven", "note")
        assert check["text"]
    text = plain.cli("doctor", "--require", found["isolation"])
    assert text.returncode == 0, text.stderr
    assert f"Isolation here: {found['isolation']}" in text.stderr
