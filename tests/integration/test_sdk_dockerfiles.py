"""The unmodified azure-ai-ml client: Environment(build=BuildContext(…)), registered and inline, from Python
and from YAML."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from imagemaker import PASSWORD, PYTHON_ENV, USER, Layout, need, push, registry, with_python
from jobserver import JobServer

from tidemill.server import launch

pytestmark = pytest.mark.sdk

FLOW = """
import json, os, sys
from azure.ai.ml import MLClient, command, load_job
from azure.ai.ml import entities as e
from azure.identity import DefaultAzureCredential

host, user, password, folder = sys.argv[1:5]
ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
ml.connections.create_or_update(e.WorkspaceConnection(name="reg", type="container_registry", target=host,
    credentials=e.UsernamePasswordConfiguration(username=user, password=password)))
env = ml.environments.create_or_update(e.Environment(name="made", version="1",
    build=e.BuildContext(path=folder + "/context", dockerfile_path="docker/Dockerfile")))
said = "python -c 'import made; print(made.word)' && cat /made-by"
job = ml.jobs.create_or_update(command(command=said, environment=env, compute="local"))
ml.jobs.stream(job.name)
inline = ml.jobs.create_or_update(load_job(folder + "/job.yml"))
ml.jobs.stream(inline.name)
region = e.RegistryRegionDetails(location="westeurope")
made = e.Registry(name="shared", location="westeurope", replication_locations=[region])
ml.registries.begin_create(made).result()
ml.environments.share("made", "1", share_with_name="theirs", share_with_version="2", registry_name="shared")
shared = ml.jobs.create_or_update(command(command=said, compute="local",
    environment="azureml://registries/shared/environments/theirs/versions/2"))
ml.jobs.stream(shared.name)
wrong = ml.jobs.create_or_update(command(command=said, compute="local", environment=e.Environment(
    build=e.BuildContext(path=folder + "/wrong"))))
failure = ""
try:
    ml.jobs.stream(wrong.name)
except Exception as error:
    failure = str(error)
print(json.dumps([ml.jobs.get(n.name).status for n in (job, inline, shared, wrong)] + [failure, job.name]))
"""


def test_a_build_context_through_the_sdk(sdk_python: str, tmp_path: Path):
    need("bwrap", "buildah", "skopeo")
    layout = Layout(tmp_path / "layout")
    layout.add([with_python()], config={"Env": PYTHON_ENV})
    server = JobServer(tmp_path / "home", images="use")
    (tmp_path / "context/docker").mkdir(parents=True)
    (tmp_path / "context/made.py").write_text("word = 'of the context'\n")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "job.yml").write_text(
        "$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json\n"
        "command: cat /made-by\ncompute: azureml:local\n"
        "environment:\n  build:\n    path: context\n    dockerfile_path: docker/Dockerfile\n"
    )
    with registry(tmp_path / "registry", login=True) as address:
        push(layout, "latest", f"{address}/python:1", login=True)
        (tmp_path / "context/docker/Dockerfile").write_text(
            f"FROM {address}/python:1\nCOPY made.py /opt/made/\nENV PYTHONPATH=/opt/made\n"
            "RUN echo made by $(id -u) > /made-by; echo the log of the build\n"
        )
        (tmp_path / "wrong/Dockerfile").write_text(f"FROM {address}/python:1\n\nRUN echo why; exit 3\n")
        server.start()
        try:
            done = subprocess.run(
                [sdk_python, "-c", FLOW, address, USER, PASSWORD, str(tmp_path)],
                env={**os.environ, **launch.variables(server.home)},
                capture_output=True,
                text=True,
                timeout=170,
            )
            assert done.returncode == 0, done.stderr
            *states, failure, name = json.loads(done.stdout.splitlines()[-1])
            typed = server.cli("job", "create", "--file", str(tmp_path / "job.yml"), "--stream")
            log = server.log(name, "azureml-logs/20_image_build_log.txt")
        finally:
            server.end()
    assert states == ["Completed", "Completed", "Completed", "Failed"]
    assert typed.returncode == 0, typed.stderr
    assert "made by 0" in typed.stdout
    assert done.stdout.count("of the context\nmade by 0") == 2
    assert "Dockerfile, line 3:" in failure
    assert "exit status 3: why" in failure
    assert "the log of the build" in log
    assert "STEP 4/4: RUN echo made by" in log
