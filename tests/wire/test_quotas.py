"""Usages and quotas over the wire: the unmodified SDK's `compute.list_usage`, and the routes that it has no
call for in the shape of Azure's specification."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tidemill.cli.main import run

LIST_USAGE = """
import json, os
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
found = ml.compute.list_usage()
print("RESULT" + json.dumps([[u.name["value"], u.currentValue, u.limit, u.id, u.type] for u in found]))
"""
API = {"api-version": "2023-04-01"}


@pytest.fixture(scope="module")
def client(server) -> Any:
    from tidemill.cli.session import Given, Session

    return Session(Given(home=str(server.home))).client


@pytest.fixture(scope="module")
def location(server) -> str:
    subscription = server.state["workspace"]["subscription"]
    return f"/subscriptions/{subscription}/providers/Microsoft.MachineLearningServices/locations/local"


def update(client: Any, location: str, *quotas: dict[str, Any]) -> list[dict[str, Any]]:
    return client.call("POST", f"{location}/updateQuotas", {"value": list(quotas)}, API)["value"]


def test_update_quotas_then_list_them_and_their_usage(client, location, server) -> None:
    id = f"{server.workspace_id}/quotas/standardDSv2Family"
    (answer,) = update(client, location, {"id": id, "type": "x", "limit": 16, "unit": "Count"})
    assert answer == {
        "id": id,
        "type": "Microsoft.MachineLearningServices/workspaces/quotas",
        "limit": 16,
        "unit": "Count",
        "status": "Success",
    }
    (listed,) = client.get(f"{location}/quotas", API)["value"]
    assert (listed["id"], listed["limit"], listed["amlWorkspaceLocation"]) == (id, 16, "local")
    assert listed["name"]["value"] == "standardDSv2Family"
    (usage,) = client.get(f"{server.workspace_id}/usages", API)["value"]
    assert (usage["currentValue"], usage["limit"], usage["unit"]) == (0, 16, "Count")
    (answer,) = update(
        client, location, {"id": f"{server.workspace_id}/quotas/standardDsv9Family", "limit": 1}
    )
    assert answer["status"] == "InvalidVMFamilyName"


@pytest.mark.sdk
def test_the_sdk_lists_the_host_s_usage_and_the_workspace_s(client, location, server, sdk_python) -> None:
    update(client, location, {"id": f"{server.workspace_id}/quotas/standardDSv2Family", "limit": 16})
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [sdk_python, "-c", LIST_USAGE],
        env={**clean, **server.env},
        capture_output=True,
        text=True,
        timeout=280,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    usages = {name: rest for name, *rest in json.loads(line.removeprefix("RESULT"))}
    assert usages["Total Dedicated vCPUs"][0] == 0
    assert usages["standardDSv2Family"] == [
        0,
        16,
        f"{server.workspace_id}/usages/standardDSv2Family",
        "Microsoft.MachineLearningServices/workspaces/usages",
    ]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"limit": 1}, "value[0].id is None"),
        ("x", "value[0].id is None"),
        ({"id": "/subscriptions/x", "limit": 1}, "value[0].id is '/subscriptions/x'"),
        ({"id": "{W}/quotas/cores", "limit": "many"}, "limits.cores is 'many'"),
        ({"id": "{W}/quotas/cores"}, "limits.cores is None"),
        ({"id": "{W}/quotas/cores", "limit": 2**70}, "limits.cores is"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(client, location, server, entry, words) -> None:
    from tidemill.cli.errors import CliError

    if isinstance(entry, dict) and "id" in entry:
        entry = {**entry, "id": entry["id"].replace("{W}", server.workspace_id)}
    with pytest.raises(CliError) as caught:
        update(client, location, entry)
    assert words in caught.value.message


def test_the_command_line_sets_shows_and_explains(server, capsys) -> None:
    home = ["--home", str(server.home)]
    assert run(["quota", "set", "--user", "*", "--jobs", "7", *home]) == 0
    assert run(["quota", "set", "--compute", "local", "--nodes", "1", *home]) == 0
    assert run(["quota", "show", *home]) == 0
    shown = capsys.readouterr().out
    assert "compute    local" in shown or "compute" in shown
    assert run(["quota", "explain", "--size", "Standard_DS1_v2", "--nodes", "2", *home]) == 0
    said = capsys.readouterr().out
    assert "0 used + 1 asked = 1, limit 7 jobs -> fits" in said
    assert run(["quota", "explain", "--compute", "local", "--nodes", "2", *home]) == 0
    assert "0 used + 2 asked = 2, limit 1 node -> does not fit" in capsys.readouterr().out
    assert run(["queue", *home]) == 0
    assert "Nothing waits." in capsys.readouterr().err
    assert run(["queue", "-o", "json", *home]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run(["quota", "set", "--team", "*", *home]) == 2
    assert run(["quota", "explain", *home]) == 2
    assert run(["quota", "set", "--user", "nobody", "--jobs", "1", *home]) == 3
