"""`tidemill container …`: how what cannot be read is refused, and what a broken line says."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from cli_fake_server import Answer, Fake, W, error, run
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tidemill.cli import inside
from tidemill.cli.errors import ServerGone
from tidemill.cli.session import Given, Session

GROUPS = W.split("/providers/")[0] + "/providers/Microsoft.ContainerInstance/containerGroups"
FILE = """\
name: web
properties:
  containers:
    - name: web
      properties:
        image: host-python
        resources: {requests: {cpu: -1, memoryInGB: 1}}
"""
WHERE = "properties.containers[0].properties.resources.requests.cpu"


@pytest.mark.parametrize(
    ("status", "word", "target", "code", "placed"),
    [
        (400, "InvalidContainerGroup", WHERE, 2, True),
        (400, "NotOffered", WHERE, 2, True),
        (400, "BadRequest", WHERE, 2, True),
        (400, "InvalidTag", "tags.tidemill.runtime", 2, True),
        (400, "RuntimeNotAvailable", "tags.tidemill.runtime", 4, True),
        (400, "QuotaExceeded", "properties.containers", 4, True),
        (409, "InvalidContainerGroupUpdate", "web", 4, False),
        (403, "AuthorizationFailed", None, 4, False),
        (400, "NetworkMissing", None, 4, False),
    ],
)
def test_a_value_that_is_wrong_is_wrong_usage(
    home: Path,
    fake: Fake,
    capsys: Any,
    tmp_path: Path,
    status: int,
    word: str,
    target: str | None,
    code: int,
    placed: bool,
) -> None:
    file = tmp_path / "group.yaml"
    file.write_text(FILE)
    refusal = error(status, word, "It is -1.")
    if target:
        refusal.body["error"]["target"] = target
    fake.on("GET", W, {"location": "local"})
    fake.on("PUT", f"{GROUPS}/web", refusal)
    assert run("container", "create", "--file", str(file)) == code
    said = capsys.readouterr().err
    assert ("group.yaml:" in said) == placed
    flags = ("--name", "web", "--image", "host-python", "--command-line", "x")
    assert run("container", "create", *flags) == code


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--command-line", "echo 'a"], '--command-line "echo \'a" cannot be read: No closing quotation.'),
        (["-e", "hush"], "--environment-variables 'hush' is not NAME=VALUE."),
        (["-e", "=x"], "--environment-variables '=x' is not NAME=VALUE."),
        (["--secure-environment-variables", "hush"], "what was given is not NAME=VALUE."),
        (["--cpu", "nan"], "'nan' is no finite number."),
        (["--memory", "inf"], "'inf' is no finite number."),
        (["--memory", "much"], "'much' is not a valid float."),
    ],
)
def test_a_flag_that_cannot_be_read_is_named(
    home: Path, fake: Fake, capsys: Any, words: list[str], told: str
) -> None:
    fake.on("GET", W, {"location": "local"})
    assert run("container", "create", "--name", "web", "--image", "host-python", *words) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "hush" not in said or "secure" not in said
    assert all(asked.method != "PUT" for asked in fake.asked)


def test_what_a_file_says_is_not_said_by_flags(home: Path, fake: Fake, capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "group.yaml"
    file.write_text(FILE)
    flags = ("--cpu", "1.0", "--ports", "80", "--restart-policy", "Never")
    assert run("container", "create", "--file", str(file), *flags) == 2
    said = capsys.readouterr().err
    assert f"--cpu, --ports and --restart-policy cannot be given beside --file: write it into {file}." in said
    assert fake.asked == []


def test_a_runtime_is_asked_for_by_a_tag(home: Path, fake: Fake) -> None:
    fake.on("GET", W, {"location": "local"})
    fake.on("PUT", f"{GROUPS}/web", error(400, "Stopped", "here"))
    flags = ("--name", "web", "--image", "host-python", "--command-line", "x")
    for more in ((), ("--runtime", "sandbox"), ("--runtime", "runc")):
        run("container", "create", *flags, *more)
    sent = [json.loads(asked.body).get("tags") for asked in fake.asked if asked.method == "PUT"]
    assert sent == [None, None, {"tidemill.runtime": "runc"}]
    assert run("container", "create", *flags, "--runtime", "kata") == 2


def test_a_containers_name_is_one_part_of_an_address(home: Path, fake: Fake, capsys: Any) -> None:
    name = "a b/../c?d"
    fake.on("GET", f"{GROUPS}/web/containers/{name}/logs", Answer(200, {"content": "said\n"}))
    assert run("container", "logs", "--name", "web", "-c", name) == 0
    assert capsys.readouterr().out == "said\n"


@pytest.mark.parametrize("broken", [True, False])
def test_a_line_that_breaks_is_no_end(broken: bool, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def writes(line: ServerConnection) -> None:
        assert line.recv() == "password"
        line.send("tick\n")
        if broken:  # as a kill of the server does
            line.socket.shutdown(socket.SHUT_RDWR)

    with serve(writes, "127.0.0.1", 0) as server:
        address = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        monkeypatch.setattr(inside, "opened", lambda *_: connect(address))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        given = {"webSocketUri": f"{address}/line", "password": "password"}
        if broken:
            with pytest.raises(ServerGone, match="The line to it broke"):
                inside.follow(Session(Given()), given)
        else:
            inside.follow(Session(Given()), given)
        server.shutdown()
    assert capsys.readouterr().out == "tick\n"
