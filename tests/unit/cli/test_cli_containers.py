"""`tidemill container …`: how refusals of a file end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_fake_server import Fake, W, error, run

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
