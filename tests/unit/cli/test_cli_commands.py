"""The command line as a whole: exit codes, errors, help; access, quotas and activity."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from cli_fake_server import (
    COMPUTE,
    NATIVE,
    SUMMARY,
    Fake,
    W,
    error,
    run,
)

from tidemill.cli import main
from tidemill.cli.framework import Command, Group

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
