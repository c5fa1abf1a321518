"""Jobs on the command line: lists, submits, downloads, why, cancel, archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cli_fake_server import (
    DETAIL,
    NATIVE,
    SUMMARY,
    Answer,
    Asked,
    Fake,
    W,
    run,
)

from tidemill.cli import blob


def test_job_list_in_all_forms(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", f"{NATIVE}/jobs", {"value": [SUMMARY], "next": None})
    assert run("job", "list", "--state", "Running", "--include-archived") == 0
    assert fake.of("GET", f"{NATIVE}/jobs")[0].query == {"limit": "50", "state": "Running", "archived": "all"}
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["NAME", "DISPLAY"]
    assert row.split()[:5] == ["j1", "digits", "e", "Completed", "cpu"]
    assert row.endswith("3.20 s  $0.000310")
    assert run("--output", "tsv", "job", "list") == 0
    assert capsys.readouterr().out.split("\t")[0] == "j1"
    assert run("job", "list", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out) == [SUMMARY]
    assert run("job", "list", "-o", "none") == 0
    assert capsys.readouterr().out == ""


def test_job_list_without_a_match_says_of_what(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", f"{NATIVE}/jobs", {"value": [], "next": None})
    for words, said in (
        ((), "No jobs yet."),
        (("--state", "Running"), "No job is Running."),
        (("--archived-only",), "No job is archived."),
    ):
        assert run("job", "list", *words) == 0
        assert capsys.readouterr().err.startswith(said)


def test_job_list_follows_pages(home: Path, fake: Fake, capsys: Any) -> None:
    def page(asked: Asked) -> dict[str, Any]:
        start = int(asked.query.get("after", "0"))
        names = [{**SUMMARY, "name": f"j{n}"} for n in range(start, start + 2)]
        return {"value": names, "next": str(start + 2) if start < 4 else None}

    fake.on("GET", f"{NATIVE}/jobs", page)
    assert run("job", "list", "--all-results", "-o", "json") == 0
    assert [job["name"] for job in json.loads(capsys.readouterr().out)] == [f"j{n}" for n in range(6)]
    assert run("job", "list", "--max-results", "3", "-o", "json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src" / "pkg").mkdir(parents=True)
    (root / "src" / "train.py").write_text("print(1)")
    (root / "src" / "pkg" / "a.py").write_text("")
    (root / "src" / "skip.log").write_text("x")
    (root / "src" / ".amlignore").write_text("*.log\n.amlignore\n")
    (root / "data").mkdir()
    (root / "data" / "x.csv").write_text("1,2")
    (root / "conda.yml").write_text("dependencies: [python=3.11]\n")
    (root / "job.yml").write_text(
        "command: python train.py ${{inputs.d}} ${{inputs.old}}\ncode: src\n"
        "environment: {image: 'python:3.11', conda_file: conda.yml}\ncompute: azureml:cpu\n"
        "inputs:\n  d: {type: uri_folder, path: data}\n  old: {type: uri_file, path: azureml:d1@latest}\n"
    )
    return root


def offer_submit(fake: Fake) -> dict[str, Any]:
    """The routes that a submit needs; codes are found again by their hash."""
    codes: dict[str, str] = {}
    submitted: dict[str, Any] = {}
    original = fake.respond

    def respond(handler: Any, asked: Asked) -> None:
        parts = asked.path.split("/")
        if "/codes/" in asked.path:
            name = parts[parts.index("codes") + 1]
            path = f"{W}/codes/{name}/versions"
            if asked.method == "GET":
                found = codes.get(asked.query["hash"])
                fake.on("GET", path, {"value": [{"id": found, "name": "1"}] if found else []})
            elif asked.method == "POST":
                uri = f"{fake.address}/acct.blob.core.windows.net/c1"
                credential = {"credentialType": "SAS", "sasUri": uri + "?sig=x"}
                body = {"blobReferenceForConsumption": {"blobUri": uri, "credential": credential}}
                fake.on("POST", f"{path}/1/startPendingUpload", body)
            else:
                properties = asked.json["properties"]
                codes[properties["properties"]["hash_sha256"]] = f"{path}/1"
                submitted["code"] = properties
                fake.on("PUT", f"{path}/1", {"id": f"{path}/1"})
        if "/environments/" in asked.path and asked.method == "PUT":
            submitted["environment"] = asked.json["properties"]
            fake.on("PUT", asked.path, {"id": asked.path})
        if "/jobs/" in asked.path and asked.method == "PUT":
            submitted["job"] = asked.json["properties"]
            services = {"Studio": {"endpoint": "https://localhost:1/page"}}
            answer = {"name": parts[-1], "properties": {"status": "Queued", "services": services}}
            fake.on("PUT", asked.path, Answer(201, answer))
        original(handler, asked)

    fake.respond = respond  # type: ignore[method-assign]
    fake.on("GET", f"{W}/data/d1", {"properties": {"latestVersion": "7"}})
    store = {"datastoreType": "AzureBlob", "containerName": "azureml-blobstore", "protocol": "http"}
    store["accountName"] = fake.address.removeprefix("http://") + "/acct"
    store["endpoint"] = "core.windows.net"
    fake.on("GET", f"{W}/datastores/workspaceblobstore", {"properties": store})
    key = {"secretsType": "AccountKey", "key": "a2V5"}
    fake.on("POST", f"{W}/datastores/workspaceblobstore/listSecrets", key)
    return submitted


def test_names_of_folders_are_quoted_in_addresses(
    home: Path, fake: Fake, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    submitted = offer_submit(fake)
    for old, new in (("src", "s #%41?"), ("data", "d #%41?")):
        (project / old).rename(project / new)
    (project / "d #%41?" / "Dockerfile").write_text("FROM scratch\n")
    (project / "job.yml").write_text(
        "command: x\ncode: 's #%41?'\nenvironment: {build: {path: 'd #%41?'}}\ncompute: azureml:cpu\n"
    )
    assert run("job", "create", "--file", "job.yml", "--name", "j1") == 0
    account = f"{fake.address}/acct.blob.core.windows.net"
    assert submitted["code"]["codeUri"] == f"{account}/c1/s%20%23%2541%3F"
    context = submitted["environment"]["build"]["contextUri"]
    assert context.startswith(f"{account}/azureml-blobstore/LocalUpload/")
    assert context.endswith("/d%20%23%2541%3F/")
    for address in (submitted["code"]["codeUri"], context):
        place = unquote(address.removeprefix(fake.address)).rstrip("/")
        assert any(name.startswith(f"{place}/") for name in fake.blobs)


def test_job_create_uploads_once_and_sends_what_the_sdk_sends(
    home: Path, fake: Fake, project: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    submitted = offer_submit(fake)
    assert run("job", "create", "--file", "job.yml", "--name", "j1", "--set", "tags.a=1") == 0
    account = "/acct.blob.core.windows.net"
    assert fake.blobs[f"{account}/c1/src/train.py"] == b"print(1)"
    assert fake.blobs[f"{account}/c1/src/pkg/a.py"] == b""
    assert not any("skip.log" in name for name in fake.blobs)
    [data] = [name for name in fake.blobs if name.endswith("/data/x.csv")]
    digest = data.split("/LocalUpload/")[1].split("/")[0]
    assert fake.metadata[data]["upload_status"] == "completed"
    signed = next(a for a in fake.asked if a.path == data and a.method == "PUT")
    assert signed.headers["authorization"].startswith("SharedKey acct.blob.core.windows.net:")
    job = submitted["job"]
    assert submitted["code"]["codeUri"] == f"{fake.address}{account}/c1/src"
    assert submitted["code"]["isAnonymous"] is True
    assert submitted["environment"]["condaFile"] == "dependencies: [python=3.11]\n"
    assert job["computeId"] == f"{W}/computes/cpu"
    assert job["codeId"].startswith(f"{W}/codes/")
    assert job["environmentId"].startswith(f"{W}/environments/CliV2AnonymousEnvironment/versions/")
    assert job["experimentName"] == "project"
    assert job["tags"] == {"a": "1"}
    assert job["inputs"] == {
        "d": {
            "uri": f"azureml://datastores/workspaceblobstore/paths/LocalUpload/{digest}/data/",
            "jobInputType": "uri_folder",
        },
        "old": {"uri": f"{W}/data/d1/versions/7", "jobInputType": "uri_file"},
    }
    streams = capsys.readouterr()
    assert "https://localhost:1/page" in streams.out
    assert "tidemill job stream --name j1" in streams.err
    # Again: nothing is sent a second time.
    before = len([a for a in fake.asked if a.method == "PUT" and "blob.core" in a.path])
    assert run("job", "create", "--file", "job.yml", "--name", "j2", "-o", "none") in (0, 3)
    after = len([a for a in fake.asked if a.method == "PUT" and "blob.core" in a.path])
    assert after == before


def test_a_file_with_mistakes_is_exit_2_and_nothing_is_sent(
    home: Path, fake: Fake, project: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert run("job", "create", "--file", "job.yml", "--set", "compte=x") == 2
    assert (
        "--set compte: unknown key 'compte' in a command job. Did you mean 'compute'?"
        in capsys.readouterr().err
    )
    assert fake.asked == []


def test_many_and_large_files(
    home: Path, fake: Fake, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(blob, "BLOCK", 1000)
    for number in range(40):
        (project / "src" / f"f{number}.bin").write_bytes(bytes([number]) * (2500 if number == 7 else 10))
    offer_submit(fake)
    assert run("job", "create", "--file", "job.yml", "--name", "j1") == 0
    sent = {name.rsplit("/", 1)[1]: data for name, data in fake.blobs.items() if "/c1/" in name}
    assert sent["f7.bin"] == bytes([7]) * 2500
    assert len([name for name in sent if name.startswith("f")]) == 40


def offer_download(fake: Fake, blobs: dict[str, bytes]) -> None:
    detail = {**DETAIL, "outputs": {"model": {"uri": "azureml://datastores/art/paths/out/model/"}}}
    fake.on("GET", f"{NATIVE}/jobs/j1", detail)
    for name in ("art", "workspaceartifactstore"):
        properties = {"datastoreType": "AzureBlob", "containerName": name, "protocol": "http"}
        properties["accountName"] = fake.address.removeprefix("http://") + "/acct"
        fake.on("GET", f"{W}/datastores/{name}", {"properties": properties})
        fake.on("POST", f"{W}/datastores/{name}/listSecrets", {"secretsType": "AccountKey", "key": "a2V5"})
    fake.blobs.update({f"/acct.blob.core.windows.net/{name}": data for name, data in blobs.items()})


def test_download(home: Path, fake: Fake, tmp_path: Path, capsys: Any) -> None:
    offer_download(
        fake,
        {
            "art/out/model/MLmodel": b"m",
            "art/out/model/data/x.bin": b"x" * 5000,
            "art/out/model2/other": b"o",
            "workspaceartifactstore/ExperimentRun/dcid.j1/user_logs/std_log.txt": b"log",
        },
    )
    target = tmp_path / "results"
    assert run("job", "download", "--name", "j1", "--all", "--download-path", str(target)) == 0
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == {
        "artifacts/user_logs/std_log.txt": b"log",
        "named-outputs/model/MLmodel": b"m",
        "named-outputs/model/data/x.bin": b"x" * 5000,
    }
    assert run("job", "download", "--name", "j1", "--output-name", "modl") == 3
    assert "Did you mean 'model'?" in capsys.readouterr().err


def test_download_refuses_names_that_leave_the_folder(
    home: Path, fake: Fake, tmp_path: Path, capsys: Any
) -> None:
    offer_download(fake, {"art/out/model/../../../evil": b"m"})
    target = tmp_path / "a" / "b"
    assert run("job", "download", "-n", "j1", "--output-name", "model", "-p", str(target)) == 1
    assert "evil" in capsys.readouterr().err
    assert list(tmp_path.rglob("evil")) == []


def test_download_of_a_running_job_is_refused(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", f"{NATIVE}/jobs/j1", {**DETAIL, "status": "Running"})
    assert run("job", "download", "--name", "j1") == 4
    assert "job stream" in capsys.readouterr().err


def test_why_cancel_archive_update(home: Path, fake: Fake, capsys: Any) -> None:
    why = {
        "state": "Queued",
        "sentence": "It waits for a node.",
        "reasons": [{"message": "max is 2"}],
        "next": ["soon"],
    }
    fake.on("GET", f"{NATIVE}/jobs/j1/why", why)
    assert run("job", "why", "--name", "j1") == 0
    assert capsys.readouterr().out == "It waits for a node.\n  - max is 2\nNext:\n  - soon\n"
    fake.on("POST", f"{W}/jobs/j1/cancel", Answer(200, b""))
    waits = iter([{"status": "CancelRequested"}, {"status": "Canceled"}])
    fake.on("GET", f"{NATIVE}/jobs/j1/wait", lambda asked: next(waits))
    assert run("job", "cancel", "--name", "j1", "--wait") == 0
    assert capsys.readouterr().out == "j1 is Canceled.\n"
    fake.on("GET", f"{W}/jobs/j1", {"properties": {"experimentName": "e", "tags": {"a": "1"}}})
    runs = f"/history/v1.0{W}/experiments/e/runs/j1"
    fake.on("PATCH", runs, {})
    assert run("job", "archive", "--name", "j1") == 0
    assert run("job", "restore", "--name", "j1") == 0
    assert run("job", "update", "-n", "j1", "--set", "tags.b=2", "--set", "display_name=x") == 0
    assert [a.json for a in fake.of("PATCH", runs)] == [
        {"hidden": True},
        {"hidden": False},
        {"tags": {"a": "1", "b": "2"}, "displayName": "x"},
    ]
    assert run("job", "update", "-n", "j1", "--set", "command=x") == 2
