"""The unmodified azure-ai-ml client: Environment(image=…) of a private registry on the loopback."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from imagemaker import PASSWORD, PYTHON_ENV, USER, Layer, Layout, need, push, registry, with_python
from jobserver import JobServer

from tidemill.server import launch

pytestmark = pytest.mark.sdk

FLOW = """
import json, os, sys
from azure.ai.ml import MLClient, Output, command
from azure.ai.ml import entities as e
from azure.identity import DefaultAzureCredential

host, user, password = sys.argv[1:4]
ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
ml.connections.create_or_update(e.WorkspaceConnection(name="reg", type="container_registry", target=host,
    credentials=e.UsernamePasswordConfiguration(username=user, password=password)))
env = ml.environments.create_or_update(e.Environment(name="trainer", version="1", image=f"{host}/trainer:1"))
job = ml.jobs.create_or_update(command(
    command="cat /etc/os-release && python -c 'import sys; print(sys.prefix)' && "
            "echo done > ${{outputs.out}}/word",
    environment=env, compute="local", outputs={"out": Output(type="uri_folder")}))
ml.jobs.stream(job.name)
ml.jobs.download(job.name, download_path=sys.argv[4], output_name="out")
print(json.dumps({"image": env.image, "status": ml.jobs.get(job.name).status}))
"""


def test_an_image_through_the_sdk(sdk_python: str, tmp_path: Path):
    need("bwrap")
    layout = Layout(tmp_path / "layout")
    layout.add([with_python(), Layer().file("etc/os-release", "ID=tiny\n")], config={"Env": PYTHON_ENV})
    server = JobServer(tmp_path / "home", images="use")
    with registry(tmp_path / "registry", login=True) as address:
        push(layout, "latest", f"{address}/trainer:1", login=True)
        server.start()
        try:
            done = subprocess.run(
                [sdk_python, "-c", FLOW, address, USER, PASSWORD, str(tmp_path / "got")],
                env={**os.environ, **launch.variables(server.home)},
                capture_output=True,
                text=True,
                timeout=110,
            )
        finally:
            server.end()
    assert done.returncode == 0, done.stderr
    assert "ID=tiny" in done.stdout
    assert "/opt/python" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "image": f"{address}/trainer:1",
        "status": "Completed",
    }
    assert (tmp_path / "got/named-outputs/out/word").read_text() == "done\n"
