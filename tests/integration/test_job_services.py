"""Services of a job: started beside its command, listed by Azure's SDK, reached by port-forward."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from jobserver import JobServer, until

# A program that stands in for the real one: what is asked of it on its command line is what counts here.
STAND_IN = """
import argparse, functools, http.server, sys
asked = argparse.ArgumentParser()
for name in ("--host", "--port", "--logdir"):
    asked.add_argument(name)
given = asked.parse_args()
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=given.logdir)
http.server.ThreadingHTTPServer((given.host, int(given.port)), handler).serve_forever()
"""
SERVICES = {
    "shell": {"jobServiceType": "SSH"},
    "board": {"jobServiceType": "TensorBoard", "properties": {"logDir": "outputs/tb"}},
    "lab": {"jobServiceType": "JupyterLab"},
    "editor": {"jobServiceType": "VSCode"},
    "own": {"jobServiceType": "Custom", "port": 7070},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("services") / "home")
    server.start()
    server.cluster("cpu", high=2)
    yield server
    server.end()


@pytest.fixture(scope="module")
def job(server: JobServer) -> str:
    files = {"tensorboard/__init__.py": "", "tensorboard/main.py": STAND_IN}
    command = "mkdir -p outputs/tb; echo curves > outputs/tb/page; echo up; sleep 600"
    name = server.submit(
        "served",
        command,
        codeId=server.code("board", files),
        computeId=f"{server.workspace}/computes/cpu",
        services=SERVICES,
    )
    server.until_log(name, "up")  # the board's page is there
    return name


def listed(server: JobServer, job: str) -> dict[str, Any]:
    path = f"/history/v1.0{server.workspace}/runs/{job}/serviceinstances/0"
    status, answer = server.call("GET", path)
    assert status == 200, answer
    return answer["instances"]


def settled(server: JobServer, job: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = listed(server, job)
        states = {found[name]["status"] for name in found if name != "own"}
        return found if found and "Starting" not in states else None

    return until(look, what="the services' states")


def test_states_and_reasons(server: JobServer, job: str) -> None:
    found = settled(server, job)
    assert {name: found[name]["status"] for name in found} == {
        "shell": "Running",
        "board": "Running",
        "lab": "Failed",
        "editor": "Failed",
        "own": "Starting",  # the job does not listen there
    }
    assert "add jupyterlab to its pip list" in found["lab"]["error"]["error"]["message"]
    assert "code-server" in found["editor"]["error"]["error"]["message"]
    assert found["shell"]["endpoint"] == f"tidemill ssh {job}"
    assert found["board"]["port"] == 6006
    assert server.job(job)["status"] == "Running"  # whatever became of them
    texts = [entry["message"] for entry in server.job(job)["timeline"]]
    until(
        lambda: any("board (TensorBoard) runs" in e["message"] for e in server.job(job)["timeline"]),
        what=f"its word in the time line: {texts}",
    )
    until(lambda: any("lab (JupyterLab) does not run" in e["message"] for e in server.job(job)["timeline"]))


def test_the_job_still_says_what_it_was_asked_for(server: JobServer, job: str) -> None:
    _, answer = server.arm("GET", f"jobs/{job}")
    assert set(answer["properties"]["services"]) == {*SERVICES, "Studio", "Tracking"}
    same = {key: answer["properties"][key] for key in ("command", "codeId", "computeId", "services")}
    assert server.put_job(job, **same)[0] == 200
    assert server.put_job(job, **{**same, "services": {"other": {"jobServiceType": "SSH"}}})[0] == 409


def test_it_is_reached_by_its_name(server: JobServer, job: str) -> None:
    settled(server, job)
    done = server.cli("job", "services", "--name", job)
    assert done.returncode == 0, done.stderr
    assert f"tidemill port-forward {job} board" in done.stdout
    words = [sys.executable, "-m", "tidemill.cli.main", "--home", str(server.home)]
    process = subprocess.Popen(
        [*words, "port-forward", job, "board"], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert address, said
        with urllib.request.urlopen(f"{address[0]}page", timeout=60) as reply:
            assert reply.read() == b"curves\n"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "add jupyterlab" in server.cli("port-forward", job, "lab").stderr
    assert "no service 'none'" in server.cli("port-forward", job, "none").stderr
    assert f"tidemill ssh {job}" in server.cli("port-forward", job, "shell").stderr


def test_it_outlives_the_server_and_not_the_job(server: JobServer, job: str) -> None:
    settled(server, job)
    server.kill()
    server.start()
    assert until(lambda: listed(server, job), what="the services after a restart")
    assert settled(server, job)["board"]["status"] == "Running"
    pid = "pgrep -f tensorboard.main || ls /proc | grep '^[0-9]*$' | wc -l"
    assert server.cli("ssh", job, "--", "sh", "-c", pid).returncode == 0
    server.cancel(job)
    assert server.wait(job)["status"] == "Canceled"
    assert listed(server, job) == {}


def test_what_is_refused(server: JobServer) -> None:
    status, answer = server.put_job("bad", "true", services={"x": {"jobServiceType": "Notebook"}})
    assert status == 400
    assert "'Notebook'" in json.dumps(answer)
