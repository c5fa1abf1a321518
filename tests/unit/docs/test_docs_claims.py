"""What the pages claim of a running server: its home, its variables, the fields of the native API."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docs_pages import DOCS, PAGES, ROOT, name_of, section

from tidemill.cli.session import Given, Session
from tidemill.serving.scoring import settings as serving_settings

ARCHITECTURE = DOCS / "architecture.md"
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask(server: Any) -> Ask:
    """JSON of a path below the server's http address, asked as the owner."""
    secret = {"X-IDENTITY-HEADER": server.env["IDENTITY_HEADER"]}
    address = server.env["IDENTITY_ENDPOINT"] + "?resource=https://management.azure.com/"
    token = _json(urllib.request.Request(address, headers=secret))["access_token"]

    def get(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        url = server.state["addresses"]["http"] + path
        return _json(urllib.request.Request(url, data, headers, method="GET" if data is None else "PUT"))

    return get


def _json(request: urllib.request.Request) -> dict[str, Any]:
    with urllib.request.urlopen(request, timeout=70) as reply:
        return json.loads(reply.read())


@pytest.fixture(scope="module")
def job(server: Any, ask: Ask) -> str:
    """The native path of a job that has ended, with a data input and an output."""
    put = f"{server.workspace_id}/jobs/documented?api-version=2024-10-01"
    account = ask(f"{server.workspace_id}/datastores/workspaceblobstore?api-version=2024-10-01")
    assert account["name"] == "workspaceblobstore"
    command = "echo ${{inputs.word}} && touch ${{outputs.out}}/a"
    inputs = {"word": {"jobInputType": "literal", "value": "here"}}
    outputs = {"out": {"jobOutputType": "uri_folder"}}
    body = {"jobType": "Command", "command": command, "inputs": inputs, "outputs": outputs}
    environment = f"{server.workspace_id}/environments/plain/versions/1"
    ask(f"{environment}?api-version=2024-10-01", {"properties": {"image": "python:3.11"}})
    ask(put, {"properties": {**body, "environmentId": environment, "computeId": "local"}})
    path = f"/api/v1{server.workspace_id}/jobs/documented"
    status = ""
    while status not in ("Completed", "Failed", "Canceled"):  # until the test's own limit
        status = ask(f"{path}/wait?timeout=60")["status"]
    assert status == "Completed"
    return path


def documented(start: str) -> dict[str, Any]:
    """Fields of the paragraph `start: {…}` or of the table row with `start`: {name: inner fields or {}}."""
    text = section(ARCHITECTURE, "Native API (`/api/v1`, used by CLI and portal)")
    place = re.search(rf"^{start}.*?`(\{{.*?\}})`(?= \||\.|;)", text, re.MULTILINE | re.DOTALL)
    assert place, start
    return _fields(re.sub(r"\s+", "", place[1]))


def _fields(text: str) -> dict[str, Any]:
    """`{a,b:{c,d},e:[{f}],g:[Name],h:{name:{i}}|null}` -> {"a": {}, "b": {"c": {}, "d": {}}, …}"""
    found: dict[str, Any] = {}
    for part in _split(text.removeprefix("{").removesuffix("}")):
        name, _, inner = part.partition(":")
        inner = inner.removesuffix("|null").strip("[]")
        found[name.strip('"')] = _fields(inner) if inner.startswith("{") else {}
    return found


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def agrees(told: dict[str, Any], given: Any, where: str = "") -> None:
    """The same names on both sides, inner ones too; a lone `name` stands for the user's own names."""
    if not told:
        return
    if isinstance(given, list):
        for item in given[:1]:
            agrees(told, item, where)
        return
    if not isinstance(given, dict):
        return
    if set(told) == {"name"}:
        for value in list(given.values())[:1]:
            agrees(told["name"], value, f"{where}.*")
        return
    assert set(told) == set(given), f"{where}: {set(told) ^ set(given)}"
    for name, inner in told.items():
        agrees(inner, given[name], f"{where}.{name}")


def test_status(ask: Ask) -> None:
    agrees(documented(r"\| `GET /api/v1/status`"), ask("/api/v1/status"))


def test_job_summary_and_detail(ask: Ask, job: str) -> None:
    summary, detail = documented("JobSummary: "), documented(r"JobDetail: JobSummary \+ ")
    given = ask(job)
    agrees({**summary, **detail}, given)
    assert all(given[name] for name in ("timeline", "attempts_list", "inputs", "outputs"))
    agrees(summary, ask(f"{job}/wait"))
    agrees(summary, ask(job.rpartition("/")[0])["value"])
    agrees(documented("TimelineEntry: "), given["timeline"])
    phases = section(ARCHITECTURE, "Native API (`/api/v1`, used by CLI and portal)").partition("Phases: ")[2]
    assert {entry["phase"] for entry in given["timeline"]} <= set(
        re.findall(r"\w+", phases.partition(".")[0])
    )


def test_why_and_logs(ask: Ask, job: str) -> None:
    agrees(documented(r"\| `GET /api/v1\{W\}/jobs/\{name\}/why`"), ask(f"{job}/why"))
    agrees({"value": {"path": {}, "size": {}}}, ask(f"{job}/logs"))


def test_computes(ask: Ask, job: str, server: Any) -> None:
    summary = documented("ComputeSummary: ")
    agrees(summary, ask(f"/api/v1{server.workspace_id}/computes")["value"])
    given = ask(f"/api/v1{server.workspace_id}/computes/local")
    node = documented("NodeView: ")
    more = {
        "nodes_list": node,
        "timeline": documented("TimelineEntry: "),
        "queue": {},
        "deployments": {},
        "required_isolation": {},
    }
    agrees({**summary, **more}, given)
    assert given["nodes_list"]


def test_sizes(ask: Ask) -> None:
    agrees(documented(r"\| `GET /api/v1/catalog/sizes\?region=`"), ask("/api/v1/catalog/sizes"))


def test_the_home_is_as_drawn(server: Any, job: str) -> None:
    """Every name of the drawing exists (those of nodes while there is one), and nothing else does."""
    drawn = section(ARCHITECTURE, "Home").partition("```\n")[2].partition("```")[0]
    told = {line.split()[0].strip("/") for line in drawn.splitlines()[1:]} | {"data.json", "gateway.json"}
    found = {entry.name for entry in server.home.iterdir()}
    assert found == told, found ^ told
    for folder in ("secrets", "tls", "db", "blobs"):
        line = next(line for line in drawn.splitlines() if line.strip().startswith(f"{folder}/"))
        names = {word.strip("/") for word in line.split()[1:] if not word.startswith("(")}
        inside = {e.name for e in (server.home / folder).iterdir() if not e.name.endswith(("-wal", "-shm"))}
        assert inside == names, (folder, inside ^ names)
    node = next((server.home / "nodes").iterdir())
    for name in ("node.json", "pid", "sock", "journal", "agent.log"):
        assert name in drawn
        assert (node / "agent" / name).exists(), name


def test_variables_are_those_that_env_prints(server: Any) -> None:
    """$NAMES in the pages are set by `tidemill env`, by the job or in the same page, or read by a command."""
    from tidemill.cli.commands.backup import PASSPHRASE

    serving = Path(serving_settings.__file__).read_text("utf-8")
    ours = set(server.env) | {"PWD", "HOME", PASSPHRASE}
    ours |= set(re.findall(r'"(TIDEMILL_SERVING_[A-Z_]+)"', serving))
    for page in PAGES:
        text = page.read_text("utf-8")
        for name in re.findall(r"\$\{?([A-Z][A-Z_]{3,})", text):
            assert name in ours or f"{name}=" in text, f"{name_of(page)}: ${name}"
        for name in re.findall(r"`(TIDEMILL_[A-Z_]+)`", text):
            assert name in ours, f"{name_of(page)}: {name}"


def test_default_ports_are_those_shown() -> None:
    from tidemill.server import control

    text = (DOCS / "tutorials" / "first-job.md").read_text("utf-8")
    shown = re.findall(r"^(?:Azure API|portal|storage) +https?://[^:]+:(\d+)$", text, re.MULTILINE)
    assert shown == [str(port) for port in (control.HTTPS_PORT, control.HTTP_PORT, control.DATA_PORT)]


def test_yaml_of_the_tutorials_is_read(tmp_path: Any) -> None:
    """Each job, component and cluster of the tutorials goes through the reader that the command line uses."""
    from tidemill.cli.yaml import load
    from tidemill.cli.yaml.endpoint_load import load_deployment
    from tidemill.cli.yaml.pipeline_load import load_component

    assert Session(Given()).output == "table"
    (tmp_path / "src").mkdir()
    (tmp_path / "conda.yml").write_text("dependencies: [python=3.11]\n")
    components = tmp_path / "components"
    shutil.copytree(ROOT / "examples" / "pipeline-diabetes" / "components", components)
    seen = 0
    for page in (DOCS / "tutorials").glob("*.md"):
        for body in re.findall(r"^```yaml\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            file = tmp_path / f"{seen}.yml"
            file.write_text(body)
            if "commandComponent" in body:
                (components / file.name).write_text(body)
                load_component(components / file.name)
            elif re.search(r"^(command|jobs):", body, re.MULTILINE):
                load.load_job(file, (), str(file))
            elif "managedOnlineDeployment" in body:
                shutil.copytree(ROOT / "examples" / "serve-digits" / "score", tmp_path / "score")
                load_deployment(file, (), str(file))
            elif "amlcompute" in body:
                load.load_compute(file, (), str(file))
            else:
                continue
            seen += 1
    assert seen >= 5


def test_the_batch_tutorial_shows_the_files_of_its_example() -> None:
    from tidemill.cli.yaml import batch_load

    example = ROOT / "examples" / "batch-reviews"
    page = (DOCS / "tutorials" / "batch-endpoints.md").read_text("utf-8")
    for name in ("deployment.yml", "flow.yml", "inputs.yml"):
        assert f"```yaml\n{(example / name).read_text('utf-8')}```" in page, name
    assert (example / "score" / "score.py").read_text("utf-8").split("\n\n\n", 1)[1] in page
    batch_load.load_endpoint(example / "endpoint.yml")
    for name in ("deployment.yml", "flow.yml"):
        batch_load.load_deployment(example / name)
    batch_load.call_in(batch_load.load_call(example / "inputs.yml", ()))


def test_scripts_named_exist() -> None:
    for page in PAGES:
        for name in re.findall(
            r"\b((?:scripts|examples|tests)/[\w./-]+\.(?:py|yml|sh))", page.read_text("utf-8")
        ):
            assert (ROOT / name).exists(), f"{name_of(page)}: {name}"


def test_how_often_the_system_tries_again() -> None:
    from tidemill.domain.states import DEFAULT_LIMITS

    page = (DOCS / "reference" / "job-yaml.md").read_text("utf-8")
    assert f"is tried again, at most {DEFAULT_LIMITS.system_failures} times" in page
