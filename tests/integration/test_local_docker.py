"""`tidemill local` by its socket: killed, asked twice, asked for something else."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobserver import alive, until

from tidemill.cli.local.daemon import PID, SOCKET

SCORE = "def init(): pass\ndef run(body): return [1]\n"


class Docker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tidemill.cli.main", "local", *words, "--folder", str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(self.folder / SOCKET))
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text[:1] in (b"{", b"[") and b"\r\n" not in text else text

    @property
    def pid(self) -> int:
        return int((self.folder / PID).read_text())

    def state(self, id: str) -> dict[str, Any]:
        return self.ask("GET", f"/containers/{id}/json")[1]["State"]


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Docker]:
    made = Docker(tmp_path / "local")
    assert made.cli("up").returncode == 0
    try:
        yield made
    finally:
        made.cli("down")


def context(**files: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def test_deployments_end_with_it_and_are_known_afterwards(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCORE)
    said = docker.ask("POST", "/v1.43/build?t=ep:blue", context(Dockerfile="FROM python:3.11\n"))[1]
    assert b"Successfully built" in said
    body = {
        "Image": "ep:blue",
        "Env": ["AML_APP_ROOT=/app/", "AZUREML_ENTRY_SCRIPT=score.py"],
        "Labels": {"endpoint": "ep"},
        "HostConfig": {"Binds": [f"{tmp_path}:/app/:z"]},
    }
    status, made = docker.ask("POST", "/v1.43/containers/create?name=ep.blue", body)
    assert status == 201
    status, again = docker.ask("POST", "/v1.43/containers/create?name=ep.blue", body)
    assert (status, again["message"]) == (409, "There is a container 'ep.blue' already: remove it first.")
    assert docker.ask("POST", f"/v1.43/containers/{made['Id']}/start")[0] == 204
    running = docker.state("ep.blue")["Pid"]
    assert alive(running)
    os.kill(docker.pid, signal.SIGKILL)
    until(lambda: not alive(running), what="the end of the deployment")
    assert docker.cli("up").returncode == 0
    assert docker.state("ep.blue")["Status"] == "exited"
    assert docker.ask("POST", "/containers/ep.blue/start")[0] == 204
    assert docker.state("ep.blue")["Status"] == "running"
    assert docker.ask("DELETE", "/containers/ep.blue")[0] == 409  # it runs
    running = docker.state("ep.blue")["Pid"]
    assert docker.cli("down").returncode == 0
    assert not alive(running)
    assert docker.cli("list").returncode == 5


def test_a_second_start_finds_the_first(docker: Docker) -> None:
    before = docker.pid
    assert docker.cli("up").returncode == 0
    assert docker.pid == before


def test_what_is_not_there_is_said(docker: Docker) -> None:
    assert docker.ask("GET", "/v1.43/containers/none/json") == (404, {"message": "No such container: none"})
    assert docker.ask("POST", "/v1.43/containers/create?name=x", {"Image": "none"})[0] == 404
    status, answer = docker.ask("GET", "/v1.43/networks")
    assert status == 501
    assert "there is no Docker here" in answer["message"]
    said = docker.ask("POST", "/build?t=x", context(Other="FROM x"))[1]
    assert b"There is no file 'Dockerfile'" in said
    assert b"is no tar file" in docker.ask("POST", "/build?t=x", b"no tar at all")[1]
    status, answer = docker.ask("POST", "/containers/create?name=x", b"{")
    assert (status, "not JSON" in answer["message"]) == (400, True)


def test_only_its_owner_reaches_it(docker: Docker) -> None:
    assert (docker.folder / SOCKET).stat().st_mode & 0o077 == 0
    assert docker.folder.stat().st_mode & 0o077 == 0
