"""`tidemill batch …` with the example of the tutorial against a real server, the kills in between, and the
pages about it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accessclient
import pytest
from jobserver import JobServer, until
from signedpages import Pages

pytestmark = pytest.mark.kill

EXAMPLE = Path(__file__).parents[2] / "examples/batch-reviews"
MOODS = "chair.txt,-3,unhappy\nlamp.txt,3,happy\nmirror.txt,2,happy\nrug.txt,-1,unhappy\ntable.txt,1,happy\n"
# What is called in the middle of which the server is killed: each file is noted when it is seen. All but the
# first mini-batch wait until they may go on.
SLOW = """
import os, time
def init():
    assert open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model", "weights.json")).read()
def run(mini_batch):
    names = [os.path.basename(path) for path in mini_batch]
    while "i00" not in names and not os.path.exists(os.path.join(os.path.dirname(__file__), "go")):
        time.sleep(0.05)
    time.sleep(0.3)
    print("ran " + ",".join(names), flush=True)
    return names
"""


SCRIPT = "code_configuration.scoring_script=x.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("batch") / "home")
    made.start()
    made.cluster("cpu-cluster", size="Standard_DS1_v2")
    yield made
    made.end()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "reviews"
    shutil.copytree(EXAMPLE, folder)
    return folder


@pytest.fixture(scope="module")
def run(server: JobServer, files: Path):
    def call(*words: str, code: int = 0) -> str:
        done = server.cli("batch", *words, cwd=files, timeout=150)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return call


@pytest.fixture(scope="module")
def made(run: Any) -> dict[str, str]:
    """The example's endpoint and both deployments."""
    return {
        "endpoint": run("endpoint", "create", "--file", "endpoint.yml"),
        "weights": run("deployment", "create", "--file", "deployment.yml", "--set-default"),
        "count": run("deployment", "create", "--file", "flow.yml"),
    }


def test_the_example_is_shown(run: Any, made: dict[str, str]) -> None:
    assert "mferp/managementfrontend" in made["endpoint"]
    assert "reviews/weights, the default" in made["weights"]
    assert "of 2, 2 at once a node, 60 s each, 2 more tries" in made["weights"]
    assert "pipeline component count-words" in made["count"]
    (found,) = json.loads(run("endpoint", "list", "--output", "json"))
    assert (found["default_deployment"], found["deployment_names"]) == ("weights", ["weights", "count"])
    listed = run("deployment", "list", "--endpoint-name", "reviews")
    assert "score.py with model" in listed
    assert "cpu-cluster" in listed


def test_a_folder_is_scored_and_its_scores_are_an_asset(
    server: JobServer, run: Any, made: dict[str, str], files: Path
) -> None:
    words = ("--input", "reviews", "--output-asset", "moods:1", "--job-name", "scored", "--stream")
    run("endpoint", "invoke", "--name", "reviews", *words)
    job = server.job("scored")
    assert (job["status"], job["experiment"], job["type"]) == ("Completed", "reviews", "pipeline")
    done = server.cli("job", "download", "--name", "scored", "--output-name", "score", "-p", "got", cwd=files)
    assert done.returncode == 0, done.stderr
    assert next((files / "got").rglob("moods.csv")).read_text() == MOODS
    status, asset = server.arm("GET", "data/moods/versions/1")
    assert (status, asset["properties"]["dataType"]) == (200, "uri_folder")
    (listed,) = json.loads(run("endpoint", "list-jobs", "--name", "reviews", "--output", "json"))
    assert listed["name"] == "scored"
    # The asset is what the next call scores; all of it is one file.
    asked = ("--input", "azureml:moods:1", "--job-name", "again", "--output-file-name", "m.csv", "--stream")
    run("endpoint", "invoke", "--name", "reviews", "-d", "weights", *asked)
    assert server.job("again")["status"] == "Completed"


def test_a_pipeline_component_gets_the_inputs_of_a_file(
    server: JobServer, run: Any, made: dict[str, str], files: Path
) -> None:
    words = ("-d", "count", "--file", "inputs.yml", "--set", "inputs.shortest=6", "-j", "counted", "--stream")
    run("endpoint", "invoke", "--name", "reviews", *words)
    job = server.job("counted")
    path = job["outputs"]["counts"]["uri"].split("/paths/", 1)[1]
    assert server.stored(path) == {"words.txt": b"5\n"}


def test_the_server_is_killed_and_nothing_is_lost_or_done_twice(server: JobServer) -> None:
    server.code("slow", {"slow.py": SLOW})
    count = 20
    uri = server.upload("many", {f"i{number:02}": "x" for number in range(count)})
    _, weights = server.arm("GET", "batchEndpoints/reviews/deployments/weights")
    properties = {
        **weights["properties"],
        "miniBatchSize": 2,
        "codeConfiguration": {
            "codeId": f"{server.workspace}/codes/slow/versions/1",
            "scoringScript": "slow.py",
        },
    }
    status, answer = server.arm("PUT", "batchEndpoints/reviews/deployments/slow", {"properties": properties})
    assert status == 201, answer
    call = {"properties": {"inputData": {"in": {"jobInputType": "UriFolder", "uri": uri}}}}
    headers = {"repeatability_request-id": "once", "azureml-model-deployment": "slow"}

    def invoke() -> tuple[int, Any]:
        path = f"{server.workspace}/batchEndpoints/reviews/jobs?api-version=2020-09-01-dataplanepreview"
        signed = {**headers, "Authorization": f"Bearer {server.token()}"}
        return server._send("POST", path, call, signed)

    status, job = invoke()
    assert status == 201, job
    child = until(lambda: server.native(f"jobs?parent={job['name']}")["value"], what="its step")[0]["name"]
    until(lambda: (server.job(child)["parallel"] or {}).get("finished") == 1, what="a mini-batch's end")
    server.kill()
    (code,) = server.home.glob("nodes/*/work/*/code/slow.py")
    code.with_name("go").touch()
    server.start()
    status, again = invoke()  # the client did not hear the answer
    assert (status, again["name"]) == (200, job["name"])
    assert server.wait(job["name"])["status"] == "Completed"
    found = server.job(child)
    path = found["outputs"]["score"]["uri"].split("/paths/", 1)[1]
    (scores,) = server.stored(path).values()
    names = [f"i{number:02}" for number in range(count)]
    assert scores.decode().splitlines() == names
    logs = server.stored(f"ExperimentRun/dcid.{child}/", "azureml")
    lines = [line for text in logs.values() for line in text.decode().splitlines() if line.startswith("ran ")]
    assert sorted(name for line in lines for name in line[4:].split(",")) == names
    assert len(server.arm("GET", "batchEndpoints/reviews/deployments/slow/jobs")[1]["value"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("deployment", "create", "-f", "deployment.yml", "--set", "compute=azureml:cpx"), 3,
         "--set compute: Compute 'cpx' was not found"),
        (("deployment", "create", "-f", "deployment.yml", "--set", "settings.output_action=both"), 2,
         "append_row"),
        (("deployment", "create", "-f", "deployment.yml", "--set", SCRIPT), 2,
         "there is no x.py"),
        (("deployment", "create", "-f", "flow.yml", "--set", "component=azureml:nothing:1"), 3,
         "--set component: "),
        (("endpoint", "invoke", "-n", "reviews"), 2, "A call needs an input"),
        (("endpoint", "invoke", "-n", "reviews", "--input", "nowhere"), 2, "nowhere"),
        (("endpoint", "invoke", "-n", "revews", "--input", "reviews"), 3, "Did you mean 'reviews'"),
        (("endpoint", "invoke", "-n", "reviews", "-d", "count", "--input", "reviews"), 4,
         "has no input 'input'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(
    run: Any, made: dict[str, str], words: tuple[str, ...], code: int, said: str
) -> None:
    assert said in run(*words, code=code)


def test_validate_and_update(server: JobServer, run: Any, made: dict[str, str], files: Path) -> None:
    done = server.cli("validate", "-f", "deployment.yml", "--set", "name=other", cwd=files)
    assert "is valid: batch deployment other" in done.stdout, done.stderr
    done = server.cli("validate", "-f", "flow.yml", cwd=files)
    assert "is valid: batch deployment count" in done.stdout, done.stderr
    said = run("deployment", "update", "-e", "reviews", "-n", "weights", "--mini-batch-size", "3")
    assert "of 3, 2 at once a node" in said
    assert "No batch" not in run("endpoint", "update", "-n", "reviews", "--tags", "a=b")


def test_pages_show_it_with_its_jobs_and_change_the_default(
    server: JobServer, run: Any, made: dict[str, str]
) -> None:
    pages = Pages(server.state, server.cli("portal", "--no-browser").stdout.strip())
    _, _, listed = pages.send("GET", f"{pages.base}/endpoints")
    assert f'href="{pages.base}/batch-endpoints/reviews"' in listed
    here = f"{pages.base}/batch-endpoints/reviews"
    status, _, page = pages.send("GET", here)
    assert status == 200
    assert f'href="{pages.base}/jobs/scored"' in page
    assert "Mini-batches of" in page
    model = re.search(r'id="model-weights" href="([^"]+)"', page)
    assert model
    assert f'href="{here}">reviews/weights' in pages.send("GET", model[1])[2]
    status, headers, _ = pages.send("POST", f"{here}/default", {"deployment": "count"})
    assert (status, headers["location"]) == (303, here)
    assert json.loads(run("endpoint", "show", "-n", "reviews", "-o", "json"))["default_deployment"] == "count"
    status, _, page = pages.send("POST", f"{here}/default", {"deployment": "cuont"})
    assert status == 404
    assert "Did you mean &#39;count&#39;" in page
    assert pages.send("GET", f"{pages.base}/batch-endpoints/revews")[0] == 404


def test_who_may_read_may_not_call(server: JobServer, run: Any, made: dict[str, str]) -> None:
    eve = json.loads(server.cli("access", "create-user", "eve", "-o", "json").stdout)
    assert server.cli("access", "grant", "eve", "Reader").returncode == 0
    token = accessclient.token_for(server.home, server.state, eve)
    where = f"{server.workspace}/batchEndpoints/reviews?api-version=2023-10-01"
    assert accessclient.ask(server.state, token, "GET", where)[0] == 200
    status, answer = accessclient.ask(server.state, token, "POST", where.replace("?", "/jobs?"), {})
    assert (status, answer["error"]["code"]) == (403, "AuthorizationFailed")
    assert "batchEndpoints/jobs/write" in answer["error"]["message"]
