"""The commands as a user and a script see them: what they send, what they print, how they exit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from cli_fake_server import NATIVE, Answer, Asked, Break, Event, Fake, W, make_home

from tidemill.cli import blob, main, stream
from tidemill.cli.framework import Command, Group

Run = Callable[..., int]


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture
def home(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "AZURE_SUBSCRIPTION_ID",
        "AZURE_RESOURCE_GROUP",
        "AZUREML_WORKSPACE_NAME",
        "ML_WORKSPACE_NAME",
    ):
        monkeypatch.delenv(name, raising=False)
    made = make_home(tmp_path, fake.address)
    monkeypatch.setenv("TIDEMILL_HOME", str(made))
    return made


def run(*args: str) -> int:
    return main.run(list(args))


SUMMARY: dict[str, Any] = {
    "name": "j1",
    "display_name": "digits",
    "experiment": "e",
    "compute": "cpu",
    "status": "Completed",
    "created_at": "2023-11-14T22:13:20.000000Z",
    "duration_s": 3.2,
    "queue_s": 0.4,
    "cost_usd": 0.00031,
    "exit_code": 0,
    "error": None,
    "page": "https://localhost:1/jobs/j1",
}
DETAIL: dict[str, Any] = {
    **SUMMARY,
    "command": "python train.py",
    "outputs": {
        "model": {
            "type": "custom_model",
            "uri": "azureml://datastores/art/paths/out/model",
            "asset": "digits:1",
        }
    },
    "metrics": {"accuracy": 0.9722222222},
    "price": {
        "usd": 0.00031,
        "usd_hour": 0.293,
        "size": "Standard_DS3_v2",
        "nodes": 1,
        "seconds": 3.8,
        "basis": "list",
    },
    "timeline": [{"seq": 1, "message": "Submitted.", "elapsed_s": 0.0}],
}
FAILED: dict[str, Any] = {
    **DETAIL,
    "status": "Failed",
    "exit_code": 3,
    "error": {"code": "UserError", "message": "ValueError: no"},
}


def error(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}})


# --- exit codes and errors ---


def test_no_server_is_exit_5_and_names_the_command_to_start_it(tmp_path: Path, capsys: Any) -> None:
    assert run("job", "list", "--home", str(tmp_path / "none")) == 5
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"Error: No server is running for the home {tmp_path / 'none'}.")
    assert f"tidemill up --home {tmp_path / 'none'}" in stderr
    assert run("status", "--home", str(tmp_path / "none")) == 5


def test_a_server_that_died_is_exit_5(home: Path, fake: Fake, capsys: Any) -> None:
    fake.close()
    assert run("job", "list") == 5
    assert f"No answer from {fake.address}" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "code"), [(404, 3), (400, 4), (403, 4), (409, 4), (507, 4), (500, 1)])
def test_refusals(home: Path, fake: Fake, capsys: Any, status: int, code: int) -> None:
    fake.on("GET", f"{NATIVE}/jobs/j1", error(status, "Because", "Say it."))
    assert run("job", "show", "--name", "j1") == code
    assert capsys.readouterr().err == "Error: Say it.\n"
    assert run("job", "show", "--name", "j1", "-o", "json") == code
    streams = capsys.readouterr()
    assert json.loads(streams.err) == {"error": {"code": "Because", "message": "Say it."}}
    assert streams.out == ""


def test_words_that_are_wrong_are_exit_2_with_the_nearest(capsys: Any) -> None:
    assert run("jbo") == 2
    assert "No such command 'jbo'. Did you mean 'job'?" in capsys.readouterr().err
    assert run("job", "lst") == 2
    assert "Did you mean 'list'?" in capsys.readouterr().err
    assert run("job", "create", "--fiel", "x") == 2
    assert "--file" in capsys.readouterr().err
    assert run("job", "list", "--output", "xml") == 2
    assert run("job", "show", "train-1") == 2
    assert "Did you mean tidemill job show --name train-1?" in capsys.readouterr().err
    assert run("job", "create", "-o", "json") == 2
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["code"] == "UsageError"


def test_numbers_that_are_wrong_are_told_their_range(home: Path, fake: Fake, capsys: Any) -> None:
    assert run("up", "--https-port", "abc") == 2
    assert "'--https-port': 'abc' is not a whole number from 0 to 65535." in capsys.readouterr().err
    assert run("job", "list", "-r", "0") == 2
    assert "'0' is not a whole number of 1 or more." in capsys.readouterr().err
    assert run("compute", "create", "-n", "cpu", "--max-instances", "1001") == 2
    assert "'1001' is not a whole number from 0 to 1000." in capsys.readouterr().err
    fake.on("GET", W, {"location": "local"})
    fake.on("PUT", f"{W}/computes/cpu", {"name": "cpu", "properties": {"provisioningState": "Succeeded"}})
    fake.on("GET", f"{NATIVE}/computes/cpu", {**COMPUTE, "nodes": []})
    run("compute", "create", "-n", "cpu", "--size", "host", "--max-instances", "0")
    sent = fake.of("PUT", f"{W}/computes/cpu")[0].json["properties"]["properties"]["scaleSettings"]
    assert sent["maxNodeCount"] == 0


def test_env_picks_what_is_asked_for(
    home: Path, fake: Fake, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.server.launch.variables", lambda home: {"A": "1", "B": "2"})
    assert run("env", "--format", "json", "--query", "B") == 0
    assert json.loads(capsys.readouterr().out) == "2"
    assert run("env", "--query", "B", "-o", "tsv") == 0
    assert capsys.readouterr().out == "2\n"


def test_a_token_is_asked_for_with_the_secret_and_again_when_refused(home: Path, fake: Fake) -> None:
    tokens = iter(["old", "new"])
    fake.on("GET", "/msi/token", lambda asked: {"access_token": next(tokens)})
    refused = error(401, "AuthenticationFailed", "expired")
    wanted = lambda asked: SUMMARY if asked.headers["authorization"] == "Bearer new" else refused  # noqa: E731
    fake.on("GET", f"{NATIVE}/jobs/j1", wanted)
    assert run("job", "show", "-n", "j1") == 0
    assert fake.of("GET", "/msi/token")[0].headers["x-identity-header"] == "the-secret"


def test_every_command_has_help_with_an_example(capsys: Any) -> None:
    def walk(group: click.Group, context: click.Context, path: list[str]) -> Iterator[list[str]]:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, Group):
                yield from walk(command, context, [*path, name])
            else:
                assert isinstance(command, Command)
                assert command.example, name
                names = [parameter.name for parameter in command.get_params(context)]
                assert len(names) == len(set(names)), f"{name}: one value would overwrite another"
                yield [*path, name]

    root = main.root()
    paths = list(walk(root, click.Context(root), []))
    assert len(paths) > 45
    for path in paths:
        command = root
        for name in path:
            command = command.get_command(click.Context(root), name)  # type: ignore[union-attr]
        named = [parameter.name for parameter in command.params]  # type: ignore[union-attr]
        assert len(named) == len(set(named)), f"{path}: a value of one overwrites another's"
        assert run(*path, "--help") == 0
        text = capsys.readouterr().out
        assert "Examples:" in text
        assert "--home DIR" in text
        assert "tidemill " + " ".join(path) in text


# --- access, quotas, activity ---


def test_a_refusal_names_its_scope_in_words_and_to_programs_as_it_is(
    home: Path, fake: Fake, capsys: Any
) -> None:
    message = f"'ann' may not over scope '{W}/computes/cpu' or the scope is invalid."
    fake.on("GET", f"{NATIVE}/computes", error(403, "AuthorizationFailed", message))
    assert run("compute", "list") == 4
    said = "Error: 'ann' may not over scope 'computes/cpu of workspace ws' or the scope is invalid.\n"
    assert capsys.readouterr().err == said
    assert run("compute", "list", "-o", "json") == 4
    assert json.loads(capsys.readouterr().err)["error"]["message"] == message


def test_a_group_is_no_resource_group(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("PUT", "/api/v1/access/principals/vision/members/ann", {"changed": True})
    assert run("access", "add-member", "vision", "ann", "-g", "other") == 0
    assert capsys.readouterr().err == "ann is now in vision.\n"


def test_activity_names_what_it_was_about(home: Path, fake: Fake, capsys: Any) -> None:
    record = {
        **{"at": "2023-11-14T22:13:20Z", "who": "ann", "address": "127.0.0.1", "action": "x/read"},
        **{"outcome": "Succeeded", "status": 200, "count": 1, "code": "", "reason": f"ann is Owner at {W}."},
    }
    about = {
        f"{W}/jobs/train-1/cancel": "train-1",
        f"{W}/jobs/train-1": "train-1",
        f"{W}/datastores/blobs/listSecrets": "blobs",
        f"{W}/secrets/hf/versions/01977d0be5c0740c8e9d5a6f0c1d2e3f": "hf:01977d0b",
        f"{W}/computes/cpu/nodes/cpu-1/exec": "cpu-1",
        f"{W}/jobs": "jobs",
        "/api/v1/keys/rotate": "rotate",
    }
    rows = [{**record, "resource": resource} for resource in about]
    fake.on("GET", "/api/v1/activity", {"value": rows, "next": None})
    assert run("activity", "list", "-o", "tsv") == 0
    cells = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[4] for row in cells] == list(about.values())
    assert {row[6] for row in cells} == {"ann is Owner at workspace ws."}


def test_a_default_team_is_shown_and_noted_where_it_does_not_count(
    home: Path, fake: Fake, capsys: Any
) -> None:
    answer = {"kind": "user", "name": "ann", "limits": {}, "weight": None, "default_team": "vision"}
    fake.on("PUT", "/api/v1/quotas", answer)
    fake.on("GET", "/api/v1/access/principals/ann", {"name": "ann", "groups": ["audio"]})
    assert run("quota", "set", "--user", "ann", "--default-team", "vision") == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].split() == ["default", "team", "vision"]
    assert "tidemill access add-member vision ann" in said.err
    fake.on("GET", "/api/v1/quotas", {"value": [{**answer, "limits": []}]})
    assert run("quota", "show") == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == "vision"


# --- jobs ---


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


# --- streaming ---

PATH = f"{NATIVE}/jobs/j1/stream"


def events(*, end: dict[str, Any]) -> list[Event]:
    return [
        Event("1:", "timeline", {"seq": 1, "message": "Submitted to cpu.", "elapsed_s": 0.0}),
        Event("2:", "timeline", {"seq": 2, "message": "A node is opened.", "elapsed_s": 0.123}),
        Event("2:a=6", "log", {"path": "user_logs/std_log.txt", "offset": 0, "text": "line 1"}),
        Event("2:a=14", "log", {"path": "user_logs/std_log.txt", "offset": 6, "text": "\nline ü\n"}),
        Event("2:a=18", "log", {"path": "user_logs/std_log.txt", "offset": 15, "text": "tail"}),
        Event("3:a=18", "status", {"status": end["status"]}),
        Event("3:a=18", "end", end),
    ]


def test_stream_prints_phases_the_log_and_a_closing_block(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", PATH, lambda asked: events(end=DETAIL))
    assert run("job", "stream", "--name", "j1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "   0.00s  Submitted to cpu.",
        "   0.12s  A node is opened.",
        "line 1",
        "line ü",
        "tail",
    ]
    assert lines[6] == "Completed  j1  in 3.20 s, after 0.40 s of waiting"
    assert [line.strip() for line in lines[7:]] == [
        "accuracy      0.972222",
        "output model  digits:1",
        "price         $0.000310 = 1 x 3.80 s of Standard_DS3_v2 at $0.293/h (list)",
        "page          https://localhost:1/jobs/j1",
    ]


def test_a_failed_job_is_exit_1_and_shows_why(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", PATH, lambda asked: events(end=FAILED))
    assert run("job", "stream", "--name", "j1") == 1
    out = capsys.readouterr().out
    assert "Failed  j1" in out
    assert "ValueError: no" in out
    assert ["exit", "code", "3"] in [line.split() for line in out.splitlines()]
    assert run("job", "stream", "--name", "j1", "-o", "json") == 1
    streams = capsys.readouterr()
    assert json.loads(streams.out)["status"] == "Failed"
    assert "line 1" in streams.err


def test_a_broken_stream_goes_on_where_it_stopped(home: Path, fake: Fake, capsys: Any) -> None:
    everything = events(end=DETAIL)

    def answer(asked: Asked) -> Any:
        after = asked.query.get("after", "")
        assert asked.headers.get("last-event-id", "") == after
        if not after:
            return [*everything[:3], Break()]
        if after == "2:a=6":
            return [everything[3], Break()]
        assert after == "2:a=14"
        return everything[4:]

    fake.on("GET", PATH, answer)
    assert run("job", "stream", "--name", "j1") == 0
    out = capsys.readouterr().out
    assert [out.count(text) for text in ("Submitted", "line 1", "line ü", "tail", "went away")] == [
        1,
        1,
        1,
        1,
        1,
    ]
    assert len(fake.of("GET", PATH)) == 3


def test_a_server_that_stays_away_ends_the_stream_with_5(
    home: Path, fake: Fake, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 1000, 10))
    fake.on("GET", PATH, lambda asked: [Break()])
    follow = stream.follow
    monkeypatch.setattr(
        stream,
        "follow",
        lambda s, n, p: follow(s, n, p, clock=lambda: next(ticks), sleep=lambda seconds: None),
    )
    assert run("job", "stream", "--name", "j1") == 5
    assert "tidemill job stream --name j1" in capsys.readouterr().err


def test_a_server_that_breaks_off_at_the_end_every_time_is_not_asked_for_ever(
    home: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 1000, 10))
    last = events(end=DETAIL)[5]
    fake.on("GET", PATH, lambda asked: [last, Break()])
    follow = stream.follow
    monkeypatch.setattr(
        stream,
        "follow",
        lambda s, n, p: follow(s, n, p, clock=lambda: next(ticks), sleep=lambda seconds: None),
    )
    assert run("job", "stream", "--name", "j1") == 5


def test_streaming_what_does_not_exist_is_3_at_once(home: Path, fake: Fake) -> None:
    fake.on("GET", PATH, error(404, "ResourceNotFound", "no job"))
    assert run("job", "stream", "--name", "j1") == 3
    assert len(fake.of("GET", PATH)) == 1


def test_ctrl_c_detaches(home: Path, fake: Fake, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "follow", interrupted)
    assert run("job", "stream", "--name", "j1") == 130
    assert "tidemill job cancel --name j1" in capsys.readouterr().err


# --- downloads, why, cancel, archive ---


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


# --- computes, assets, workspaces ---

COMPUTE = {
    "name": "cpu",
    "type": "AmlCompute",
    "size": "Standard_DS3_v2",
    "state": "Succeeded",
    "min": 0,
    "max": 2,
    "idle_s": 120,
    "nodes": {"idle": 1, "running": 0, "opening": 0, "closing": 0},
    "running_jobs": 0,
    "queued_jobs": 1,
    "price_usd_hour": 0.293,
    "run_rate_usd_hour": 0.293,
    "next_action": "closes a node in 12 s",
}


def test_compute_create_follows_the_operation(home: Path, fake: Fake, capsys: Any) -> None:
    states = iter(["InProgress", "Succeeded"])
    operation = f"{fake.address}/operations/1?api-version=1"
    headers = {"Azure-AsyncOperation": operation, "x-ms-retry-after-ms": "1"}
    fake.on("GET", W, {"location": "local"})
    fake.on("PUT", f"{W}/computes/cpu", Answer(201, {"name": "cpu"}, headers))
    fake.on(
        "GET",
        "/operations/1",
        lambda asked: Answer(200, {"status": next(states)}, {"x-ms-retry-after-ms": "1"}),
    )
    fake.on("GET", f"{NATIVE}/computes/cpu", {**COMPUTE, "nodes": []})
    assert (
        run(
            "compute",
            "create",
            "-n",
            "cpu",
            "--type",
            "AmlCompute",
            "--max-instances",
            "2",
            "--tags",
            "a=1 b=2",
        )
        == 0
    )
    body = fake.of("PUT", f"{W}/computes/cpu")[0].json
    assert body["properties"]["properties"]["scaleSettings"] == {"maxNodeCount": 2, "minNodeCount": 0}
    assert body["tags"] == {"a": "1", "b": "2"}
    assert len(fake.of("GET", "/operations/1")) == 2
    assert "closes a node in 12 s" in capsys.readouterr().out


def test_a_failed_operation_is_exit_1(home: Path, fake: Fake, capsys: Any) -> None:
    failed = {"status": "Failed", "error": {"code": "Quota", "message": "Too large."}}
    fake.on("GET", W, {"location": "local"})
    headers = {"Azure-AsyncOperation": f"{fake.address}/operations/1"}
    fake.on("PUT", f"{W}/computes/cpu", Answer(201, {}, headers))
    fake.on("GET", "/operations/1", failed)
    assert run("compute", "create", "--name", "cpu") == 1
    assert capsys.readouterr().err == "Error: Too large.\n"


def test_compute_list_update_delete(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", f"{NATIVE}/computes", {"value": [COMPUTE]})
    assert run("compute", "list") == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert "1 of 0..2" in row
    assert "closes a node in 12 s" in row
    arm = {
        "properties": {"properties": {"vmSize": "x", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 2}}}
    }
    fake.on("GET", f"{W}/computes/cpu", arm)
    fake.on("GET", f"{NATIVE}/computes/cpu", COMPUTE)
    fake.on("PUT", f"{W}/computes/cpu", {})
    assert (
        run(
            "compute",
            "update",
            "--name",
            "cpu",
            "--max-instances",
            "4",
            "--idle-time-before-scale-down",
            "90",
        )
        == 0
    )
    scale = fake.of("PUT", f"{W}/computes/cpu")[0].json["properties"]["properties"]["scaleSettings"]
    assert scale == {"minNodeCount": 0, "maxNodeCount": 4, "nodeIdleTimeBeforeScaleDown": "PT1M30S"}
    assert run("compute", "update", "--name", "cpu") == 2
    fake.on("DELETE", f"{W}/computes/cpu", Answer(202, b""))
    assert run("compute", "delete", "--name", "cpu") == 2  # no terminal to ask
    assert fake.of("DELETE", f"{W}/computes/cpu") == []
    assert run("compute", "delete", "--name", "cpu", "--yes") == 0
    assert fake.of("DELETE", f"{W}/computes/cpu")[0].query["underlyingResourceAction"] == "Delete"
    assert run("compute", "delete", "--name", "nope", "--yes") == 3


def test_datastore_types_are_spelled_as_in_yaml(home: Path, fake: Fake, capsys: Any) -> None:
    body = {"id": "x", "name": "lake", "properties": {"datastoreType": "AzureDataLakeGen2"}}
    fake.on("GET", f"{W}/datastores/lake", body)
    assert run("datastore", "show", "-n", "lake", "--query", "type", "-o", "tsv") == 0
    assert capsys.readouterr().out == "azure_data_lake_gen2\n"


def test_assets(home: Path, fake: Fake, capsys: Any) -> None:
    path = f"{W}/models/digits/versions/4"
    body = {
        "id": path,
        "name": "4",
        "properties": {
            "modelUri": "azureml://jobs/j/outputs/m",
            "modelType": "mlflow_model",
            "tags": {"aB": "1"},
        },
    }
    fake.on("GET", f"{W}/models/digits", {"properties": {"nextVersion": "4"}})
    fake.on("PUT", path, body)
    fake.on("GET", path, body)
    fake.on("GET", f"{W}/models/digits/versions", {"value": [body]})
    uri = "azureml://jobs/j/outputs/m"
    assert run("model", "create", "-n", "digits", "--path", uri, "--type", "mlflow_model", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "digits",
        "version": "4",
        "path": uri,
        "type": "mlflow_model",
        "tags": {"aB": "1"},
        "id": path,
    }
    assert run("model", "show", "-n", "digits") == 0
    assert run("model", "list", "-n", "digits") == 0
    assert run("model", "show", "-n", "nope") == 3
    assert run("model", "archive", "-n", "digits", "-v", "4") == 0
    assert fake.of("PUT", path)[-1].json["properties"]["isArchived"] is True
    assert run("model", "create", "-n", "digits", "--path", "./none") == 2
    assert "--path: there is no none in" in capsys.readouterr().err


def test_workspaces(home: Path, fake: Fake, capsys: Any) -> None:
    other = W.removesuffix("ws") + "vision"
    found = {"id": other, "name": "vision", "location": "eastus", "properties": {"friendlyName": "V"}}
    fake.on("GET", W, {"id": W, "name": "ws", "location": "eastus", "properties": {}})
    fake.on("PUT", other, Answer(201, found))
    fake.on("GET", other, found)
    fake.on(
        "GET", "/subscriptions/s/providers/Microsoft.MachineLearningServices/workspaces", {"value": [found]}
    )
    assert run("workspace", "create", "--name", "vision", "--display-name", "V", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["display_name"] == "V"
    assert fake.of("PUT", other)[0].json == {
        "location": "eastus",
        "identity": {"type": "SystemAssigned"},
        "tags": {},
        "properties": {"friendlyName": "V"},
    }
    assert run("workspace", "list") == 0
    assert "vision" in capsys.readouterr().out
    # A workspace named on the command line, before or after the command.
    fake.on("GET", "/api/v1" + other + "/jobs", {"value": [], "next": None})
    assert run("-w", "vision", "job", "list") == 0
    assert run("job", "list", "--workspace-name", "vision") == 0
