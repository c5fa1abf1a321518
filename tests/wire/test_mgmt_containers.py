"""Container groups by the unmodified azure-mgmt-containerinstance, the whole way of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
from containergroups import WEB
from imagemaker import Layer, Layout, busybox, need
from jobserver import JobServer

from tidemill.server import launch

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOW = """
import json, os, ssl, sys, time
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from azure.mgmt.containerinstance import ContainerInstanceManagementClient
from azure.mgmt.containerinstance.models import *

out = {}
TAGS = json.loads(os.environ["TEST_TAGS"])
BASE, RG = os.environ["AZUREML_DEV_URL_MFE"], os.environ["AZURE_RESOURCE_GROUP"]
client = ContainerInstanceManagementClient(
    DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], base_url=BASE,
    credential_scopes=["https://management.azure.com/.default"])
groups, containers = client.container_groups, client.containers

def error_of(call):
    try:
        call()
    except HttpResponseError as error:
        return [error.status_code, error.error.code if error.error else "", error.message]

def resources(cpu=0.5, memory=0.3):
    return ResourceRequirements(requests=ResourceRequests(cpu=cpu, memory_in_gb=memory))

web = Container(
    name="web", image="host-python", command=["python3", "-c", os.environ["TEST_WEB"]],
    ports=[ContainerPort(port=8080)], resources=resources(),
    environment_variables=[EnvironmentVariable(name="GREETING", value="hello "),
                           EnvironmentVariable(name="SECRET", secure_value="hush-7")],
    readiness_probe=ContainerProbe(http_get=ContainerHttpGet(path="/", port=8080), period_seconds=1,
                                   timeout_seconds=60),
    liveness_probe=ContainerProbe(http_get=ContainerHttpGet(path="/", port=8080), initial_delay_seconds=30,
                                  timeout_seconds=60))
asks = Container(
    name="asks", image=os.environ["TEST_IMAGE"], resources=resources(),
    command=["/bin/sh", "-c", "cat /keys/token; until wget -qO /out/a http://127.0.0.1:8080/ 2>/dev/null;"
             " do sleep 0.1; done; cat /out/a; echo; echo done"],
    volume_mounts=[VolumeMount(name="keys", mount_path="/keys"), VolumeMount(name="room", mount_path="/out")])
group = ContainerGroup(
    location="westeurope", os_type="Linux", restart_policy="OnFailure", containers=[web, asks],
    tags={"team": "vision", **TAGS}, ip_address=IpAddress(type="Public", ports=[Port(port=8080)]),
    volumes=[Volume(name="keys", secret={"token": "dG9rZW4tOQo="}), Volume(name="room", empty_dir={})])

began = time.monotonic()
made = groups.begin_create_or_update(RG, "front", group, polling_interval=1).result()
out["made"] = [made.provisioning_state, made.name, made.type, time.monotonic() - began]
until = time.monotonic() + 120
while True:
    seen = groups.get(RG, "front")
    views = [one.instance_view for one in seen.containers]
    ready = any(event.name == "Ready" for event in views[0].events)
    if (ready and views[1].current_state.state == "Terminated") or time.monotonic() > until:
        break
    time.sleep(0.1)
out["state"] = seen.instance_view.state
out["views"] = [[v.current_state.state, v.current_state.exit_code, v.restart_count] for v in views]
out["events"] = [[e.name for e in v.events] for v in views]
out["reach"] = [e.message for e in seen.instance_view.events if e.name == "Reach"]
out["secure"] = [[e.name, e.value, e.secure_value] for e in seen.containers[0].environment_variables]
out["volumes"] = [v.secret for v in seen.volumes]
out["listed"] = [[g.name for g in groups.list_by_resource_group(RG)], [g.name for g in groups.list()]]
out["logs"] = [containers.list_logs(RG, "front", "web").content,
               containers.list_logs(RG, "front", "asks").content,
               containers.list_logs(RG, "front", "asks", tail=1).content]
out["timestamps"] = error_of(lambda: containers.list_logs(RG, "front", "asks", timestamps=True))
out["tags"] = groups.update(RG, "front", Resource(location="westeurope", tags={"team": "audio"})).tags

import websocket  # what `az container exec` uses
def talk(given):
    context = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
    return websocket.create_connection(given.web_socket_uri, sslopt={"context": context}, timeout=120)

size = ContainerExecRequestTerminalSize(rows=30, cols=90)
asked = ContainerExecRequest(command="/bin/sh", terminal_size=size)
given = containers.execute_command(RG, "front", "web", asked)
line = talk(given)
line.send(given.password)
line.send("stty size; echo $SECRET; exit 4\\n")
heard = ""
try:
    while part := line.recv():
        heard += part
except websocket.WebSocketConnectionClosedException:
    pass
out["heard"] = heard
try:
    talk(given)
except websocket.WebSocketBadStatusException as error:
    out["again"] = error.status_code
wrong = containers.execute_command(RG, "front", "web", asked)
line = talk(wrong)
line.send("not the password")
out["wrong"] = line.recv()
out["ended"] = error_of(lambda: containers.execute_command(RG, "front", "asks", asked))
watched = containers.attach(RG, "front", "web")
line = talk(watched)
line.send(watched.password)
say = "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/say')"
asker = containers.execute_command(
    RG, "front", "web", ContainerExecRequest(command=f'python3 -c "{say}"', terminal_size=size))
other = talk(asker)
other.send(asker.password)
out["attached"] = line.recv()
line.close()

groups.stop(RG, "front")
stopped = groups.get(RG, "front")
out["stopped"] = [stopped.instance_view.state, stopped.provisioning_state]
groups.begin_start(RG, "front", polling_interval=1).result()
out["started"] = groups.get(RG, "front").instance_view.state
before = groups.get(RG, "front").containers[0].instance_view.current_state.start_time
groups.begin_restart(RG, "front", polling_interval=1).result()
after = groups.get(RG, "front").containers[0].instance_view.current_state.start_time
out["restarted"] = after > before
group.subnet_ids = [ContainerGroupSubnetId(id="/subscriptions/s/…/subnets/default")]
out["subnet"] = error_of(lambda: groups.begin_create_or_update(RG, "other", group))
group.subnet_ids = None
group.containers[0].resources = resources(cpu=2)
out["resized"] = error_of(lambda: groups.begin_create_or_update(RG, "front", group))
group.containers = [Container(name="bad", image="oci:/nowhere/at/all:x", resources=resources())]
group.volumes, group.ip_address = None, None
out["image"] = error_of(lambda: groups.begin_create_or_update(RG, "bad", group, polling_interval=1).result())
for name in ("bad", "front"):
    groups.begin_delete(RG, name, polling_interval=1).result()
out["gone"] = error_of(lambda: groups.get(RG, "front"))
print(json.dumps(out, default=str))
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = Layout(tmp_path_factory.mktemp("layouts") / "images")
    made.add([busybox(), Layer()], "box", {"Env": ["PATH=/bin"]})
    return made


@pytest.fixture(scope="module")
def container_server(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[JobServer]:
    need("bwrap", "skopeo")
    home = tmp_path_factory.mktemp("groups") / "home"
    server = JobServer(home, images="use", image_folders=[str(layout.path)], cancel_grace_s=2.0)
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module", params=[{}, {"tidemill.runtime": "runc"}], ids=["sandbox", "runc"])
def flow(
    request: pytest.FixtureRequest, container_server: JobServer, layout: Layout, sdk_python: str
) -> dict[str, Any]:
    if request.param:
        if os.geteuid() != 0:
            pytest.skip("needs root: runc makes containers of root's server alone")
        need("runc")
    env = {**os.environ, **launch.variables(container_server.home)}
    env |= {"TEST_WEB": WEB, "TEST_IMAGE": f"oci:{layout.path}:box", "TEST_TAGS": json.dumps(request.param)}
    done = subprocess.run([sdk_python, "-c", FLOW], env=env, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stderr
    return {"asked": request.param, **json.loads(done.stdout.splitlines()[-1])}


def test_a_group_is_created_and_shown(flow: dict[str, Any]) -> None:
    assert flow["made"][:3] == ["Succeeded", "front", "Microsoft.ContainerInstance/containerGroups"]
    assert flow["state"] == "Running"
    assert flow["views"] == [["Running", None, 0], ["Terminated", 0, 0]]
    assert flow["events"][0][0] == "Started"
    assert "Ready" in flow["events"][0]
    assert "tidemill container port-forward --name front 8080" in flow["reach"][0]
    assert flow["listed"] == [["front"], ["front"]]
    assert flow["tags"] == {"team": "audio", **flow["asked"]}


def test_secure_values_reach_the_container_and_are_never_shown(flow: dict[str, Any]) -> None:
    assert flow["secure"] == [["GREETING", "hello ", None], ["SECRET", None, None]]
    assert flow["volumes"] == [{}, None]
    assert flow["logs"][1] == "token-9\nhello hush-7\ndone\n"


def test_no_secret_lies_in_the_open_in_the_home(flow: dict[str, Any], container_server: JobServer) -> None:
    for path in (container_server.home / "db").iterdir():
        assert b"hush-7" not in path.read_bytes(), path
        assert b"dG9rZW4tOQ" not in path.read_bytes(), path


def test_logs(flow: dict[str, Any]) -> None:
    assert flow["logs"][0] == "web is up\n"
    assert flow["logs"][2] == "done\n"
    status, code, message = flow["timestamps"]
    assert (status, code) == (400, "NotOffered")
    assert "no line has a time" in message


def test_exec_speaks_as_az_does(flow: dict[str, Any]) -> None:
    assert "30 90" in flow["heard"]
    assert "hush-7" in flow["heard"]
    assert flow["again"] == 404, "a line is taken up once"
    assert "WrongPassword" in flow["wrong"]
    assert flow["ended"][:2] == [409, "ContainerNotRunning"]


def test_attach_shows_what_is_written_from_then_on(flow: dict[str, Any]) -> None:
    assert flow["attached"] == "asked to say\n"


def test_stop_start_restart_delete(flow: dict[str, Any]) -> None:
    assert flow["stopped"] == ["Stopped", "Succeeded"]
    assert flow["started"] == "Running"
    assert flow["restarted"] is True
    assert flow["gone"][0] == 404


def test_what_is_not_offered_is_refused_by_its_name(flow: dict[str, Any]) -> None:
    status, code, message = flow["subnet"]
    assert (status, code) == (400, "NotOffered")
    assert "properties.subnetIds is not offered: there are no virtual networks here" in message
    status, code, message = flow["resized"]
    assert (status, code) == (409, "InvalidContainerGroupUpdate")
    assert "CPU and memory" in message


def test_an_image_that_is_not_there_fails_with_its_name(flow: dict[str, Any]) -> None:
    assert "/nowhere/at/all" in flow["image"][2]
