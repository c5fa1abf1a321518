"""Command jobs by the unmodified Azure SDK: submit, stream, list, cancel, update, refusals, workspaces."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.slow, pytest.mark.timeout(600)]

SETUP = """
import io, json, os, pathlib, sys, threading, time
import requests
from azure.ai.ml import Input, MLClient, Output, command
from azure.ai.ml.constants import ListViewType
from azure.ai.ml.entities import AmlCompute, Data, Environment, JupyterLabJobService, SshJobService
from azure.ai.ml.entities import TensorBoardJobService, Workspace
from azure.ai.ml.exceptions import JobException
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

SCOPE = [os.environ["AZURE_SUBSCRIPTION_ID"], os.environ["AZURE_RESOURCE_GROUP"]]
MAIN = os.environ["AZUREML_WORKSPACE_NAME"]
ml = MLClient(DefaultAzureCredential(), *SCOPE, MAIN)
tmp = pathlib.Path(sys.argv[1])
out = {}

class PerThread:  # the SDK streams to sys.stdout: each thread gets its own
    def __init__(self):
        self.of, self.rest = {}, sys.stdout
    def here(self):
        return self.of.get(threading.get_ident(), self.rest)
    def write(self, text):
        return self.here().write(text)
    def flush(self):
        self.here().flush()
    def isatty(self):
        return False

sys.stdout = PerThread()

def streams(*names, client=ml):
    shown = [io.StringIO() for _ in names]
    def follow(name, file):
        sys.stdout.of[threading.get_ident()] = file
        try:
            client.jobs.stream(name)
        except JobException as error:
            file.write("JobException: " + error.message)
    threads = [threading.Thread(target=follow, args=pair) for pair in zip(names, shown)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [file.getvalue() for file in shown]

def error_of(call):
    try:
        call()
    except HttpResponseError as error:
        return [error.status_code, error.error.code, error.error.message]

def write(path, text):
    (tmp / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp / path).write_text(text)
    return str(tmp / path)

def files(folder):
    return {str(p.relative_to(tmp / folder)): p.read_text() for p in (tmp / folder).rglob("*") if p.is_file()}

def job(text, **more):
    return command(**{**dict(command=text, environment="plain:1", compute="local"), **more})

def run(text, client=ml, **more):
    return client.jobs.create_or_update(job(text, **more))

def until(name, *states):
    deadline = time.monotonic() + 300
    while ml.jobs.get(name).status not in states:
        assert time.monotonic() < deadline, ml.jobs.get(name).status
        time.sleep(0.1)

def said(name, word):  # the line of its log that begins with it, once it is there
    deadline = time.monotonic() + 300
    while True:
        files = ml.jobs._runs_operations.get_run_details(name).log_files
        lines = [line for url in files.values() for line in requests.get(url, timeout=60).text.splitlines()]
        if found := [line for line in lines if line.startswith(word)]:
            return found[0]
        assert time.monotonic() < deadline, (word, lines)
        time.sleep(0.1)

base = os.environ["ARM_CLOUD_METADATA_URL"].split("/metadata")[0]

def told_services(name):  # those that the job's time line has a word on
    token = DefaultAzureCredential().get_token(base + "/.default").token
    workspace = ("/subscriptions/{}/resourceGroups/{}/providers/Microsoft.MachineLearningServices/workspaces/"
                 .format(*SCOPE) + MAIN)
    answer = requests.get(f"{base}/api/v1{workspace}/jobs/{name}", timeout=60,
                          headers={"Authorization": f"Bearer {token}"})
    return {one["message"].split()[1] for one in answer.json()["timeline"]
            if one["code"] in ("ServiceRunning", "ServiceNotRunning")}

ml.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))
ml.compute.begin_create_or_update(AmlCompute(name="cpu", size="Standard_DS3_v2", max_instances=2)).result()
"""

LIFE = """
# A job so short that it has ended before anybody looks, followed twice at once, and again
short = run("seq 1 3000", compute="cpu", name="short-1", experiment_name="ex", display_name="dn",
            description="de", tags={"t": "1"}, environment_variables={"E": "1"})
out["short"] = [[line for line in text.splitlines() if line.isdigit()] == [str(n) for n in range(1, 3001)]
                for text in (*streams("short-1", "short-1"), *streams("short-1"))]
got = ml.jobs.get("short-1")
out["got"] = [got.name, got.status, got.compute, got.experiment_name, got.display_name, got.description,
              got.tags, got.environment_variables, got.creation_context.created_by,
              got.environment, got.services["Studio"].endpoint]

# One that runs for a while, followed by three; lines come once and before the end
write("src/slow.py", "import time\\nfor n in range(12):\\n    print('line', n, flush=True)\\n"
      "    time.sleep(0.25)\\nraise ValueError('weights are wrong')\\n")
slow = run("python slow.py", code=str(tmp / "src"), compute="cpu")
out["slow"] = [[[line for line in text.splitlines() if line.startswith("line")]
                == [f"line {n}" for n in range(12)], text] for text in streams(*[slow.name] * 3)]
out["slow_state"] = ml.jobs.get(slow.name).status
out["failed_later"] = streams(slow.name)[0]
out["services"] = ml.jobs.show_services(slow.name) or {}

# Services beside a job: as they are while it runs, and as they were asked for
served = run("sleep 600", services={"lab": JupyterLabJobService(nodes="all"), "sh": SshJobService(),
                                   "board": TensorBoardJobService(port=6010, log_dir="tb")})
end = time.monotonic() + 300
while time.monotonic() < end:
    found = ml.jobs.show_services(served.name) or {}
    if found and "Starting" not in {one.status for one in found.values()}:
        break
    time.sleep(0.2)
out["served"] = {name: [one.type, one.port, one.status, one.error, one.endpoint]
                 for name, one in found.items()}
asked = ml.jobs.get(served.name).services
out["asked"] = {name: [asked[name].type, asked[name].port, asked[name].nodes]
                for name in ("lab", "sh", "board")}
end = time.monotonic() + 300
while time.monotonic() < end and not {"lab", "sh", "board"} <= told_services(served.name):
    time.sleep(0.1)
ml.jobs.begin_cancel(served.name)
out["served_name"], out["served_text"] = served.name, streams(served.name)[0]

# Lines that are written in parts, bytes that are no text, an end without a newline
parts = run("for n in 1 2 3; do printf begin; sleep 0.7; echo ' end '$n; done; printf 'a\\\\377b\\\\nlast'")
out["parts"] = streams(parts.name)[0]

# What was done otherwise than asked is said at the end
late = run("sleep 600", timeout=1)
out["late"] = [streams(late.name)[0], ml.jobs.get(late.name).status]

# Where there is no cluster: this host
out["places"] = [[run("true", **place).name] for place in (
    {"compute": "local"}, {"compute": None}, {"compute": None, "instance_type": "Standard_DS3_v2"})]
for place in out["places"]:
    until(place[0], "Completed", "Failed")
    place[0] = ml.jobs.get(place[0]).status
out["bad_size"] = error_of(lambda: run("true", compute=None, instance_type="Standard_DS3_v22"))

# An environment written in the job, the output of which the SDK has its own idea
inline = run("python -c 'import sys; print(sys.prefix)'; echo a > ${{outputs.default}}/a; "
             "echo kept > outputs/k; echo u > ${{outputs.mine}}", environment=Environment(
    image="x", conda_file=write("conda.yml", "name: x\\ndependencies: [python=3.11]\\n")),
    outputs={"default": Output(type="uri_folder"), "mine": Output(
        type="uri_file", path="azureml://datastores/workspaceblobstore/paths/by/${{name}}/u.txt")})
out["inline"] = streams(inline.name)[0]
ml.jobs.download(inline.name, download_path=str(tmp / "dl"), all=True)
ml.jobs.download(inline.name, download_path=str(tmp / "dl1"))
out["inline_files"] = [files("dl"), files("dl1")]

# Data from a job's output, and a job that reads it
made = ml.data.create_or_update(
    Data(name="made", path=f"azureml://jobs/{inline.name}/outputs/mine", type="uri_file"))
reads = run("cat ${{inputs.x}} ${{inputs.y}} $[[--n ${{inputs.n}}]] 2>&1 | grep -c u", inputs={
    "x": Input(type="uri_file", path="azureml:made:1"),
    "y": Input(type="uri_file", path=f"azureml://jobs/{inline.name}/outputs/mine")}, compute="cpu")
out["reads"] = [made.path.endswith(f"/paths/by/{inline.name}/u.txt"), "\\n2\\n" in streams(reads.name)[0]]

# Cancel, also of one that ignores TERM; a download has to wait for the end
stubborn = run("trap '' TERM; echo up; while :; do sleep 0.2; done", compute="cpu")
waiting = run("sleep 600", compute="cpu")
until(stubborn.name, "Running")
said(stubborn.name, "up")  # it ignores TERM from now on
try:
    ml.jobs.download(stubborn.name)
except JobException as error:
    out["early"] = error.message
for name in (stubborn.name, waiting.name):
    ml.jobs.begin_cancel(name).result()
until(stubborn.name, "Canceled")
until(waiting.name, "Canceled")
out["canceled"] = ["up" in text and "JobException" not in text for text in streams(stubborn.name)]
ml.jobs.begin_cancel(stubborn.name).result()

# What may change, changes; the rest of the job does not
fetched = ml.jobs.get("short-1")
fetched.tags["more"] = "2"
fetched.display_name = "renamed"
changed = ml.jobs.create_or_update(fetched)
out["changed"] = [changed.tags, changed.display_name, changed.status]
out["updated"] = ml.jobs.update("short-1", description="new", tags={"t": "3"}).tags
out["same"] = [run("echo 1", name="same-1").creation_context.created_at
               == run("echo 1", name="same-1").creation_context.created_at,
               error_of(lambda: run("echo 2", name="same-1"))]

def listed(**more):
    return [j.name for j in ml.jobs.list(**more)]

ml.jobs.archive("short-1")
out["archived"] = ["short-1" in listed(), "short-1" in listed(list_view_type=ListViewType.ARCHIVED_ONLY),
                   "short-1" in listed(list_view_type=ListViewType.ALL)]
ml.jobs.restore("short-1")
ml.environments.archive("plain", "1")
threads = [threading.Thread(target=lambda part: [run("true", name=f"many-{part}-{n}") for n in range(26)],
                            args=(part,)) for part in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
names = listed()
out["pages"] = [len(names) == len(set(names)), sum(n.startswith("many-") for n in names), "short-1" in names]
out["children"] = list(ml.jobs.list(parent_job_name="short-1"))
print("RESULT" + json.dumps(out, default=str))
"""

REFUSED = """
from azure.ai.ml import automl, dsl, spark

write("src/t.py", "print(1)")
run("true", name="same-2")
for name, call in {
    "compute": lambda: run("true", compute="cpuu"),
    "environment": lambda: run("true", environment="plian:1"),
    "version": lambda: run("true", environment="plain:7"),
    "curated": lambda: run("true", environment="azureml://registries/azureml/environments/sklern-1.5/labels/latest"),
    "data": lambda: run("cat ${{inputs.d}}", inputs={"d": Input(type="uri_file", path="azureml:nope:1")}),
    "gang": lambda: run("true", compute="cpu", instance_count=5),
    "job": lambda: ml.jobs.get("nope"),
    "stream": lambda: ml.jobs.stream("nope"),
    "name": lambda: run("true", name="a b"),
}.items():
    out[name] = error_of(call)

out["automl"] = error_of(lambda: ml.jobs.create_or_update(automl.classification(
    compute="cpu", experiment_name="a", target_column_name="y", primary_metric="accuracy",
    training_data=Input(type="mltable", path="azureml://datastores/workspaceblobstore/paths/x/"))))
out["spark"] = error_of(lambda: ml.jobs.create_or_update(spark(
    code=str(tmp / "src"), entry={"file": "t.py"}, driver_cores=1, driver_memory="2g", executor_cores=1,
    executor_memory="2g", executor_instances=1,
    resources={"instance_type": "Standard_E8S_V3", "runtime_version": "3.4"})))

# A second workspace: the same names live apart
ml.workspaces.begin_create(Workspace(name="two", location="westeurope")).result()
two = MLClient(DefaultAzureCredential(), *SCOPE, "two")
two.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))
texts = {"one": ml, "two": two}
for text, client in texts.items():
    run(f"echo {text} | tee " "${{outputs.o}}/f", client, name="both",
        outputs={"o": Output(type="uri_folder")})
for text, client in texts.items():
    streams("both", client=client)
    client.jobs.download("both", download_path=str(tmp / text), output_name="o")
out["both"] = [list(files(text).values()) for text in texts]
out["two_lists"] = [j.name for j in two.jobs.list()]
out["two_compute"] = error_of(lambda: run("true", two, compute="cpu"))
theirs = (f"azureml://subscriptions/{SCOPE[0]}/resourcegroups/{SCOPE[1]}/workspaces/{MAIN}"
          "/datastores/workspaceblobstore/paths/azureml/both/o/")
out["two_reads"] = error_of(lambda: run(
    "ls ${{inputs.d}}", two, inputs={"d": Input(type="uri_folder", path=theirs)}))

from azure.storage.blob import ContainerClient
stores = [client.datastores.get("workspaceblobstore", include_secrets=True) for client in (ml, two)]
def blobs(account, key):
    where = f"https://{account}.blob.core.windows.net"
    return len(list(ContainerClient(where, stores[0].container_name, credential=key).list_blobs()))
out["own_key"] = blobs(stores[0].account_name, stores[0].credentials.account_key)
try:
    blobs(stores[0].account_name, stores[1].credentials.account_key)
except HttpResponseError as error:
    out["other_key"] = error.status_code

# Tokens: nonsense, one with a forged signature, a job's own in another workspace
class Token:
    def __init__(self, text):
        self.text = text
    def get_token(self, *scopes, **more):
        return AccessToken(self.text, int(time.time()) + 600)

head, claims, mark = DefaultAzureCredential().get_token(base + "/.default").token.split(".")
forged = ".".join((head, claims, ("B" if mark[0] == "A" else "A") + mark[1:]))
out["tokens"] = [error_of(lambda: MLClient(Token(text), *SCOPE, MAIN).jobs.get("both"))[:2]
                 for text in ("x.y.z", forged)]
holder = run("echo TOKEN $AZUREML_RUN_TOKEN; sleep 600")
own = Token(said(holder.name, "TOKEN").split()[1])
out["own_token"] = MLClient(own, *SCOPE, MAIN).jobs.get("both").name
out["foreign_token"] = error_of(lambda: MLClient(own, *SCOPE, "two").jobs.get("both"))[:2]
ml.jobs.begin_cancel(holder.name).result()
until(holder.name, "Canceled")
out["dead_token"] = error_of(lambda: MLClient(own, *SCOPE, MAIN).jobs.get("both"))[:2]
print("RESULT" + json.dumps(out, default=str))
"""


def run_flows(script: str, server, python: str, folder) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [python, "-c", SETUP + script, str(folder)],
        env={**clean, **server.env},
        capture_output=True,
        text=True,
        timeout=570,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


@pytest.fixture(scope="module")
def life(server, sdk_python, tmp_path_factory) -> dict:
    return run_flows(LIFE, server, sdk_python, tmp_path_factory.mktemp("life"))


@pytest.fixture(scope="module")
def refused(server, sdk_python, tmp_path_factory) -> dict:
    return run_flows(REFUSED, server, sdk_python, tmp_path_factory.mktemp("refused"))


def test_a_short_job_shows_its_whole_log_to_each_stream(life):
    assert life["short"] == [True, True, True]


def test_a_job_comes_back_as_it_was_given(life):
    got = life["got"]
    assert got[:4] == ["short-1", "Completed", "cpu", "ex"]
    assert got[4:8] == ["dn", "de", {"t": "1"}, {"E": "1"}]
    assert got[8]
    assert got[9] == "plain:1"
    assert "/jobs/short-1?" in got[10]  # the SDK appends &tid=…


def test_a_failing_job_raises_with_its_traceback(life):
    assert life["slow_state"] == "Failed"
    assert [whole for whole, _ in life["slow"]] == [True, True, True]
    for text in (*(text for _, text in life["slow"]), life["failed_later"]):
        assert text.rpartition("JobException")[2].count("ValueError: weights are wrong") == 1
        assert "exit code 1" in text
    assert life["services"] == {}


def test_services_are_listed_and_given_back(life):
    name, served = life["served_name"], life["served"]
    assert served["sh"] == ["SSH", None, "Running", None, f"tidemill ssh {name}"]
    for service, kind, port in (("lab", "JupyterLab", 8888), ("board", "TensorBoard", 6010)):
        shown, why = served[service][:3], served[service][3]
        assert shown == [kind, port, "Failed"]
        assert "pip list" in why
    assert life["asked"] == {
        "lab": ["jupyter_lab", None, "all"],
        "sh": ["ssh", None, None],
        "board": ["tensor_board", 6010, None],
    }
    assert "lab (JupyterLab) does not run" in life["served_text"].partition("Warnings:")[2]


def test_a_line_is_shown_once_and_whole(life):
    assert "\nbegin end 1\nbegin end 2\nbegin end 3\na\ufffdb\nlast\n" in life["parts"]
    assert life["parts"].count("begin") == 3


def test_a_stream_ends_with_what_was_done_otherwise(life):
    printed, state = life["late"]
    warnings = printed.partition("Warnings:")[2]
    assert state == "Canceled"
    assert "limits.timeout" in warnings


def test_without_a_cluster_it_runs_on_this_host(life):
    assert life["places"] == [["Completed"]] * 3
    assert life["bad_size"][:2] == [400, "InvalidVmSize"]
    assert "Did you mean Standard_DS3_v2" in life["bad_size"][2]


def test_an_inline_environment_and_the_places_of_outputs(life, server):
    assert f"{server.home}/nodes/" in life["inline"]
    assert "/.venv\n" in life["inline"]  # the job's own, over the built one
    everything, logs = life["inline_files"]
    assert everything["named-outputs/mine/u.txt"] == "u\n"
    assert everything["artifacts/outputs/k"] == "kept\n"
    assert sorted(logs) == ["artifacts/outputs/k", "artifacts/user_logs/std_log.txt"]
    assert life["reads"] == [True, True]


def test_cancel(life):
    assert "Running" in life["early"] or "RUNNING" in life["early"]
    assert life["canceled"] == [True]


def test_what_may_change_changes(life):
    assert life["changed"] == [{"t": "1", "more": "2"}, "renamed", "Completed"]
    assert life["updated"] == {"t": "3", "more": "2"}
    assert life["same"][0] is True
    assert life["same"][1][:2] == [409, "JobAlreadyExists"]


def test_lists(life):
    assert life["archived"] == [False, True, True]
    assert life["pages"] == [True, 104, True]  # more than a page of 100
    assert life["children"] == []


@pytest.mark.parametrize(
    ("flow", "status", "code", "words"),
    [
        ("compute", 404, "ResourceNotFound", "Did you mean 'cpu'"),
        ("environment", 404, "ResourceNotFound", "Did you mean 'plain'"),
        ("version", 404, "ResourceNotFound", "There are: 1"),
        ("curated", 404, "EnvironmentNotFound", "did you mean sklearn-1.5"),
        ("data", 404, "ResourceNotFound", "'nope'"),
        ("gang", 400, "GangTooLarge", "at most 2"),
        ("job", 404, "ResourceNotFound", "'nope'"),
        ("stream", 404, "ResourceNotFound", "'nope'"),
        ("name", 400, "InvalidName", "'a b'"),
        ("automl", 400, "NotOffered", "AutoML jobs"),
        ("spark", 400, "NotOffered", "Spark jobs"),
        ("two_compute", 404, "ResourceNotFound", "workspace 'two'"),
        ("two_reads", 400, "CrossWorkspace", "another workspace"),
    ],
)
def test_refused_with_a_sentence(refused, flow, status, code, words):
    assert refused[flow][:2] == [status, code]
    assert words in refused[flow][2]


def test_workspaces_live_apart(refused):
    assert refused["both"] == [["one\n"], ["two\n"]]
    assert refused["two_lists"] == ["both"]
    assert refused["own_key"] > 0
    assert refused["other_key"] == 403


def test_tokens_that_are_not_ours_are_refused(refused):
    assert refused["tokens"] == [[401, "InvalidAuthenticationToken"]] * 2
    assert refused["own_token"] == "both"
    assert refused["foreign_token"] == [403, "AuthorizationFailed"]
    assert refused["dead_token"] == [401, "ExpiredAuthenticationToken"]
