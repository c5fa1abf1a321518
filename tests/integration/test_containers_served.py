"""Deployments of an image that brings a server of its own (inference_config)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imagemaker import Layer, Layout, busybox, need
from jobserver import JobServer
from servedeployments import Deployments, dialed

pytestmark = pytest.mark.kill

PORT = 8501
MOUNTED = "/var/azureml-app/azureml-models/adder/1"


def route(path: str, port: int = PORT) -> dict[str, Any]:
    return {"port": port, "path": path}


def routes(path: str = "/model.json") -> dict[str, Any]:
    return {"livenessRoute": route(path), "readinessRoute": route(path), "scoringRoute": route(path)}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """busybox's httpd, serving the folder that MODEL_BASE_PATH names, as TensorFlow Serving's image does."""
    made = Layout(tmp_path_factory.mktemp("layouts") / "images")
    start = '#!/bin/sh\necho "in $(pwd)"\nexec busybox httpd -f -p 127.0.0.1:$1 -h "$MODEL_BASE_PATH"\n'
    layer = Layer().file("srv/start", start, 0o755)
    settings = {"Env": ["PATH=/bin"], "Entrypoint": ["/srv/start"], "Cmd": [str(PORT)], "WorkingDir": "/srv"}
    made.add([busybox(), layer], "serving", settings)
    made.add([busybox()], "nothing", {"Env": ["PATH=/bin"]})
    return made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[Deployments]:
    need("bwrap", "skopeo")
    home = tmp_path_factory.mktemp("containers") / "home"
    server = JobServer(home, images="use", image_folders=[str(layout.path)], cancel_grace_s=2.0)
    server.start()
    made = Deployments(server)
    made.prepare()
    yield made
    server.end()


def environment(served: Deployments, layout: Layout, tag: str, name: str, **more: Any) -> str:
    properties = {"image": f"oci:{layout.path}:{tag}", **more}
    status, answer = served.server.arm("PUT", f"environments/{name}/versions/1", {"properties": properties})
    assert status in (200, 201), answer
    return f"{served.server.workspace}/environments/{name}/versions/1"


def test_its_own_server_answers_with_the_model_where_azure_has_it(
    served: Deployments, layout: Layout
) -> None:
    env = environment(served, layout, "serving", "httpd", inferenceConfig=routes())
    variables = {"MODEL_BASE_PATH": MOUNTED}
    served.deploy("own", environmentId=env, environmentVariables=variables, codeConfiguration=None)
    served.until("Succeeded", "own", 60)
    (target,) = served.routed("own")
    assert target["port"] == PORT
    with dialed(served.server.home, target) as sock:
        sock.sendall(b"GET /model.json HTTP/1.0\r\n\r\n")
        answer = b""
        while part := sock.recv(65536):
            answer += part
    assert answer.endswith(b'{"bias": 1000}')
    assert "in /srv" in served.logs("own")
    table = json.loads((served.server.home / "serving" / "routes.json").read_text())
    (backend,) = [d for d in table["endpoints"][0]["deployments"] if d["name"] == "own"]
    assert backend["score_path"] == "/model.json"


def test_models_are_mounted_where_the_deployment_says(served: Deployments, layout: Layout) -> None:
    env = environment(served, layout, "serving", "elsewhere", inferenceConfig=routes())
    served.deploy(
        "elsewhere",
        environmentId=env,
        environmentVariables={"MODEL_BASE_PATH": "/var/mine/adder/1"},
        codeConfiguration=None,
        modelMountPath="/var/mine",
    )
    served.until("Succeeded", "elsewhere", 60)


def test_an_image_without_a_command_is_refused_with_the_reason(served: Deployments, layout: Layout) -> None:
    env = environment(served, layout, "nothing", "empty", inferenceConfig=routes())
    served.deploy("empty", environmentId=env, codeConfiguration=None)
    served.until("Failed", "empty", 60)
    assert "neither an entry point nor a command" in served.error("empty")["message"]


def test_one_that_ends_by_itself_fails_with_its_log(served: Deployments, layout: Layout) -> None:
    env = environment(served, layout, "serving", "ends", inferenceConfig=routes())
    served.deploy(
        "ends",
        environmentId=env,
        environmentVariables={"MODEL_BASE_PATH": "/nowhere"},
        codeConfiguration=None,
    )
    served.until("Failed", "ends", 60)  # probes would give up after five minutes
    assert "/nowhere" in served.error("ends")["message"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"livenessRoute": {"port": 1, "path": "x"}}, "must begin with '/'"),
        ({"scoringRoute": None}, "scoringRoute is missing"),
        ({"readinessRoute": {"path": "/"}}, "port is missing"),
    ],
)
def test_wrong_routes_are_refused(served: Deployments, layout: Layout, broken: Any, said: str) -> None:
    name = f"wrong{len(said)}"
    env = environment(served, layout, "serving", name, inferenceConfig={**routes(), **broken})
    path = "onlineEndpoints/sums/deployments/wrong"
    body = {"properties": {"environmentId": env, "model": "azureml:adder:1"}, "location": "eastus"}
    status, answer = served.server.arm("PUT", path, body)
    assert status == 400, answer
    assert said in answer["error"]["message"]


def test_where_the_host_stands_in_for_images_it_is_refused(tmp_path: Path) -> None:
    from tidemill.app.serving.deployment_planning import _check_serves  # pyright: ignore[reportPrivateUsage]
    from tidemill.domain.errors import InvalidRequest
    from tidemill.domain.plan import PlannedEnvironment
    from tidemill.domain.serving.container import read_container
    from tidemill.domain.serving.model import DeploymentSpec

    planned = PlannedEnvironment(container=read_container(routes()), host_instead="The host stands in.")
    with pytest.raises(InvalidRequest, match="The host stands in"):
        _check_serves(DeploymentSpec("sums", "blue"), planned)
