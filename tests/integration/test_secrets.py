"""Secrets of a real job: in its environment, and nowhere else."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobserver import JobServer, until

TOKEN = "hf_" + secrets.token_hex(16)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("secrets"))
    made.start()
    yield made
    made.end()


def set_secret(server: JobServer, name: str, value: str) -> dict[str, Any]:
    tidemill = str(Path(sys.executable).with_name("tidemill"))
    argv = [tidemill, "--home", str(server.home), "secret", "set", name, "--value-stdin", "-o", "json"]
    done = subprocess.run(argv, input=value + "\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert value not in done.stdout + done.stderr
    return json.loads(done.stdout)


def vault(server: JobServer, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    return server.call(method, f"/keyvault{server.workspace}/secrets{path}?api-version=7.4", body)


def processes_naming(word: str) -> list[str]:
    """Command lines on this host that hold the word; the environments of those that are not the job's."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (process / "cmdline").read_bytes():
                found.append(f"{process.name} cmdline")
        except OSError:
            continue
    return found


def files_naming(home: Path, word: str) -> list[str]:
    found: list[str] = []
    for folder, _, names in os.walk(home):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # it was there for a moment
                if path.is_file() and holds(path, word.encode()):
                    found.append(str(path.relative_to(home)))
    return found


def holds(path: Path, word: bytes) -> bool:
    """Whether the word is in the file. Holes of sparse files (a node's disk) are passed over."""
    with open(path, "rb", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        at, before = 0, b""
        while at < end:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                return False
            before = before if data == at else b""
            chunk = os.pread(file.fileno(), 1 << 20, data)
            if word in before + chunk:
                return True
            at, before = data + len(chunk), chunk[-len(word) :]
    return False


def test_a_job_has_it_in_its_environment_and_nothing_else_has(server: JobServer) -> None:
    set_secret(server, "hf-token", TOKEN)
    server.submit(
        "uses-it",
        'echo "length ${#TOKEN}" && echo "header ${#HEADER}" && while [ ! -e go ]; do sleep 0.05; done',
        environmentVariables={"TOKEN": "${{secrets.hf-token}}", "HEADER": "Bearer ${{secrets.hf-token}}"},
    )
    server.until_log("uses-it", f"header {len(TOKEN) + 7}")
    assert f"length {len(TOKEN)}" in server.log("uses-it")
    assert processes_naming(TOKEN) == []
    # While it runs, with the agent's journal, the database and every log on disk.
    assert files_naming(server.home, TOKEN) == []
    shown = [
        server.arm("GET", "jobs/uses-it")[1],
        server.native("jobs/uses-it"),
        server.native("secrets"),
        server.native("secrets/hf-token"),
        server.call("GET", "/api/v1/activity?limit=1000")[1],
    ]
    assert TOKEN not in json.dumps(shown)
    assert shown[0]["properties"]["environmentVariables"]["TOKEN"] == "${{secrets.hf-token}}"
    (work,) = server.home.glob("nodes/*/work/*/code")
    (work / "go").touch()
    assert server.wait("uses-it")["status"] == "Completed"
    assert files_naming(server.home, TOKEN) == []


def test_each_look_is_recorded_with_the_job(server: JobServer) -> None:
    _, body = server.call("GET", "/api/v1/activity?what=getSecret&limit=1000")
    look = next(r for r in body["value"] if r["who"] == "uses-it")
    assert look["kind"] == "job"
    assert "/secrets/hf-token/versions/" in look["resource"]
    assert look["assignment"]


def test_refused_at_submit_with_the_fix(server: JobServer) -> None:
    wrong = {
        "${{secrets.hf-tokn}}": "Did you mean 'hf-token'?",
        "${{secrets.}}": "write ${{secrets.NAME}}",
        "${{secrets.hf-token@" + "0" * 32 + "}}": "was not found in secret 'hf-token'",
    }
    for text, said in wrong.items():
        status, body = server.put_job("wrong", "true", environmentVariables={"T": text})
        assert status in (400, 404)
        assert said in body["error"]["message"]
    status, body = server.put_job("wrong", "echo ${{secrets.hf-token}}")
    assert status == 400
    assert "environment_variables" in body["error"]["message"]


def test_a_secret_that_is_gone_when_the_job_starts_fails_it_by_name(server: JobServer) -> None:
    set_secret(server, "short-lived", "value-1234")
    server.cluster("one", high=1)
    compute = {"computeId": f"{server.workspace}/computes/one"}
    server.submit("holds-the-node", "sleep 600", **compute)
    server.until_state("holds-the-node", "Running")
    server.submit("waits", "true", **compute, environmentVariables={"T": "${{secrets.short-lived}}"})
    assert vault(server, "DELETE", "/short-lived")[0] == 200
    server.cancel("holds-the-node")
    ended = server.wait("waits")
    assert ended["status"] == "Failed"
    assert "'short-lived' was not found" in ended["error"]["message"]


def test_a_jobs_own_token_reads_no_secret(server: JobServer) -> None:
    address = (
        f"{server.state['addresses']['http']}/keyvault{server.workspace}/secrets/hf-token?api-version=7.4"
    )
    native = f"{server.state['addresses']['http']}/api/v1{server.workspace}/secrets"
    script = (
        "import os, urllib.request, urllib.error\n"
        f"for url in ({address!r}, {native!r}):\n"
        "    token = os.environ['AZUREML_RUN_TOKEN']\n"
        "    request = urllib.request.Request(url, headers={'Authorization': 'Bearer ' + token})\n"
        "    try:\n"
        "        print('got', urllib.request.urlopen(request).status)\n"
        "    except urllib.error.HTTPError as error:\n"
        "        print('refused', error.code)\n"
    )
    code = server.code("peek", {"peek.py": script})
    server.submit("peeks", "python3 peek.py", codeId=code)
    server.wait("peeks")
    assert server.log("peeks").splitlines() == ["refused 403", "refused 403"]
    _, body = server.call("GET", "/api/v1/activity?refused=true&who=peeks")
    assert {r["action"].rsplit("/", 2)[-2] for r in body["value"]} == {"getSecret", "secrets"}


def test_versions_and_the_vault(server: JobServer) -> None:
    first = set_secret(server, "turned", "one-1111")
    second = set_secret(server, "turned", "two-2222")
    assert vault(server, "GET", "/turned")[1]["value"] == "two-2222"
    assert vault(server, "GET", f"/turned/{first['version']}")[1]["value"] == "one-1111"
    shown = server.cli("secret", "show", "turned", "-o", "json")
    assert [v["version"] for v in json.loads(shown.stdout)["versions"]] == [
        second["version"],
        first["version"],
    ]
    server.submit(
        "old-one",
        "echo got-${#T}",
        environmentVariables={"T": "${{secrets.turned@" + first["version"] + "}}x"},
    )
    server.wait("old-one")
    assert "got-9" in server.log("old-one")


def test_the_commands(server: JobServer) -> None:
    no_stdin = server.cli("secret", "set", "x")
    assert (no_stdin.returncode, "--value-stdin" in no_stdin.stderr) == (2, True)
    assert "hf-token" in server.cli("secret", "list").stdout
    set_secret(server, "to-go", "value-3333")
    assert server.cli("secret", "delete", "to-go", "--yes").returncode == 0
    missing = server.cli("secret", "show", "to-go")
    assert missing.returncode == 3
    assert "tidemill secret set to-go" in missing.stderr


def test_a_workspace_takes_its_secrets_with_it(server: JobServer) -> None:
    other = server.workspace.rsplit("/", 1)[0] + "/other"
    assert server.call("PUT", f"{other}?api-version=2024-04-01", {"location": "eastus"})[0] in (200, 201)
    assert server.call("PUT", f"/api/v1{other}/secrets/mine", {"value": "value-4444"})[0] == 200
    assert vault(server, "GET", "/mine")[0] == 404
    server.call("DELETE", f"{other}?api-version=2024-04-01")
    until(lambda: server.call("GET", f"{other}?api-version=2024-04-01")[0] == 404, what="the end of it")
    assert server.sql("SELECT count(*) FROM resources WHERE workspace = 'other'") == [(0,)]
