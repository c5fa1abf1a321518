"""Jobs on a real server: how they fail, are cancelled, refused, limited; their inputs and outputs."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from jobserver import Follower, JobServer, alive, until

from pidspace import SAYS, said

GRACE_S = 3.0
IGNORES_TERM = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("jobs") / "home", cancel_grace_s=GRACE_S, close_grace_s=1.0)
    server.start()
    server.cluster("cpu", high=1)
    server.cluster("other", high=2)
    yield server
    server.end()


def on(server: JobServer, compute: str = "cpu") -> dict:
    return {"computeId": f"{server.workspace}/computes/{compute}"}


def codes(job: dict) -> list[str]:
    return [entry["code"] for entry in job["timeline"]]


# --- how a job ends


def test_a_failing_job_shows_its_traceback_last_and_in_the_error(jobs):
    script = "def learn():\n    raise ValueError('no digits today')\nprint('start')\nlearn()\n"
    code = jobs.code("fails", {"train.py": script})
    jobs.submit("fails", "python3 train.py", codeId=code, **on(jobs))
    follower = Follower(jobs, "fails")
    follower.start()
    job = jobs.wait("fails")
    assert (job["status"], job["exit_code"], job["error"]["code"]) == ("Failed", 1, "UserError")
    sentence = "The command ended with exit code 1."
    assert job["error"]["message"].startswith(f"{sentence}\nThe end of its log:\nstart\n")
    assert job["timeline"][-1]["message"] == jobs.native("jobs/fails/why")["sentence"] == sentence
    assert job["error"]["message"].endswith("ValueError: no digits today")
    follower.finished()
    assert follower.text.startswith("start\nTraceback")
    assert follower.text.endswith("ValueError: no digits today\n")
    assert follower.codes[-1] == "Failed"
    status, body = jobs.arm("GET", "jobs/fails")
    assert status == 200
    assert "no digits today" in body["properties"]["error"]["message"]


def test_a_signal_is_named(jobs):
    jobs.submit("shot", SAYS + "; exec sleep 60", **on(jobs))
    pid = said(jobs.until_log("shot", "\n"))
    os.kill(pid, signal.SIGSEGV)
    job = jobs.wait("shot")
    assert (job["status"], job["error"]["code"]) == ("Failed", "KilledBySignal")
    assert job["error"]["message"].startswith("The command crashed with SIGSEGV (signal 11).\n")
    assert job["attempts_list"][0]["signal"] == signal.SIGSEGV
    assert len(job["attempts_list"]) == 1


def test_a_short_job_shows_its_whole_log(jobs):
    jobs.submit("short", "echo one; echo two >&2; printf three", **on(jobs))
    follower = Follower(jobs, "short")
    follower.start()
    follower.finished()
    assert follower.text == "one\ntwo\nthree"
    assert jobs.log("short") == "one\ntwo\nthree"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="memory limits need root")
def test_out_of_memory_is_named(jobs):
    jobs.cluster("small", size="Standard_F2s_v2", high=1)
    jobs.submit("warm", "true", **on(jobs, "small"))
    jobs.wait("warm")
    limits = next(n["limits"] for n in jobs.native("computes/small")["nodes_list"])
    if not limits["memory"]["enforced"]:
        pytest.skip(f"memory is not limited here: {limits['memory']['why_not']}")
    jobs.submit("greedy", 'python3 -c "x = [bytearray(1 << 27) for _ in range(512)]"', **on(jobs, "small"))
    job = jobs.wait("greedy")
    assert (job["status"], job["error"]["code"]) == ("Failed", "OutOfMemory"), job["error"]
    assert "memory limit" in job["error"]["message"]


def test_limits_timeout(jobs):
    jobs.submit(
        "late", "echo on; sleep 60", limits={"jobLimitsType": "Command", "timeout": "PT1S"}, **on(jobs)
    )
    job = jobs.wait("late")
    assert (job["status"], job["error"]["code"]) == ("Canceled", "JobTimeout")
    assert "limits.timeout" in job["error"]["message"]
    assert 0.9 < job["duration_s"] < 30


# --- cancel


def test_cancel_of_a_job_that_ignores_term(jobs):
    jobs.submit("deaf", IGNORES_TERM, **on(jobs))
    jobs.until_log("deaf", "ready")
    began = time.monotonic()
    jobs.cancel("deaf")
    jobs.cancel("deaf")  # twice is once
    job = jobs.wait("deaf")
    took = time.monotonic() - began
    assert job["status"] == "Canceled"
    assert GRACE_S <= took < 10  # the grace of a server that was told nothing
    assert codes(job).count("CancelRequested") == 1
    assert jobs.log("deaf") == "ready\n"
    jobs.cancel("deaf")  # an ended job stays as it is
    assert jobs.job("deaf")["ended_at"] == job["ended_at"]


def test_cancel_of_a_job_that_obeys_is_quick(jobs):
    jobs.submit("obeys", "echo ready; sleep 60", **on(jobs))
    jobs.until_log("obeys", "ready")
    began = time.monotonic()
    jobs.cancel("obeys")
    assert jobs.wait("obeys")["status"] == "Canceled"
    assert time.monotonic() - began < GRACE_S


def test_cancel_while_queued(jobs):
    jobs.submit("holder", "sleep 600", **on(jobs))
    jobs.until_state("holder", "Running")
    jobs.submit("behind", "true", **on(jobs))
    jobs.until_state("behind", "Queued")
    why = jobs.native("jobs/behind/why")
    assert "cpu" in why["sentence"]
    jobs.cancel("behind")
    job = jobs.job("behind")
    assert (job["status"], job["attempts_list"]) == ("Canceled", [])
    jobs.cancel("holder")
    assert jobs.wait("holder")["status"] == "Canceled"


def test_cancel_of_an_ended_job_changes_nothing(jobs):
    jobs.submit("over", "true", **on(jobs))
    before = jobs.wait("over")
    jobs.cancel("over")
    assert jobs.job("over")["timeline"] == before["timeline"]


def test_cancel_while_the_environment_is_being_built(jobs):
    conda = "name: x\ndependencies:\n  - python=3.11\n  - pip:\n    - six==1.16.0\n"
    properties = {"image": "python:3.11", "condaFile": conda}
    assert jobs.arm("PUT", "environments/slow/versions/1", {"properties": properties})[0] in (200, 201)
    environment = f"{jobs.workspace}/environments/slow/versions/1"
    jobs.submit("building", "true", environmentId=environment, **on(jobs))
    jobs.cancel("building")
    job = jobs.wait("building")
    assert job["status"] == "Canceled"
    assert job["attempts_list"] == []


class SlowFile(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.server.asked.set()  # type: ignore[attr-defined]
        try:
            while not self.server.over.wait(0.1):  # type: ignore[attr-defined]
                self.wfile.write(b"x")
        except OSError:
            return

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def slow_file() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowFile)
    server.asked, server.over = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def test_cancel_while_inputs_are_staged(jobs, slow_file):
    url = f"http://127.0.0.1:{slow_file.server_address[1]}/big.bin"
    given = {"big": {"jobInputType": "uri_file", "uri": url, "mode": "Download"}}
    jobs.submit("staging", "echo never", inputs=given, **on(jobs))
    assert slow_file.asked.wait(60)
    jobs.cancel("staging")
    job = jobs.wait("staging")  # the file would take a day
    assert job["status"] == "Canceled"
    assert "Started" not in codes(job)
    jobs.check_ledger("staging")
    jobs.submit("after-staging", "echo on", **on(jobs))  # the node is free again
    assert jobs.wait("after-staging")["status"] == "Completed"


# --- refused at submit


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"computeId": "cpuu"}, ["'cpuu'", "cpu"]),
        ({"environmentId": "azureml:nothing:1"}, ["nothing"]),
        ({"environmentId": "azureml:known:7"}, ["known", "7", "1"]),
        ({"inputs": {"d": {"jobInputType": "uri_file", "uri": "azureml:nodata:1"}}}, ["nodata"]),
        (
            {
                "inputs": {
                    "d": {
                        "jobInputType": "uri_file",
                        "uri": "azureml://datastores/workspaceblobstore/paths/r/x",
                    }
                }
            },
            ["'d'", "r/here.txt"],
        ),
        (
            {"inputs": {"d": {"jobInputType": "uri_file", "uri": "azureml://datastores/nope/paths/x"}}},
            ["nope", "workspaceblobstore"],
        ),
        ({"computeId": "other", "resources": {"instanceCount": 5}}, ["5", "2"]),
        (
            {
                "command": "python x.py ${{inputs.dat}}",
                "inputs": {"data": {"jobInputType": "literal", "value": "1"}},
            },
            ["dat", "data"],
        ),
        (
            {
                "command": "python x.py ${{outputs.mdl}}",
                "outputs": {"model": {"jobOutputType": "uri_folder"}},
            },
            ["mdl", "model"],
        ),
        ({"command": "python x.py ${{inputs.a"}, ["${{"]),
        ({"command": "  "}, ["command"]),
        ({"limits": {"timeout": "soon"}}, ["soon", "PT30M"]),
        ({"codeId": "azureml:nocode:1"}, ["nocode"]),
    ],
)
def test_what_cannot_run_is_refused_at_submit(jobs, properties, words):
    jobs.upload("r", {"here.txt": "1"})
    jobs.arm("PUT", "environments/known/versions/1", {"properties": {"image": "python:3.11"}})
    status, body = jobs.put_job("refused", **{"command": "true", **properties})
    assert status in (400, 404), body
    for word in words:
        assert word in body["error"]["message"]
    assert jobs.arm("GET", "jobs/refused")[0] == 404


def test_the_same_put_twice_is_one_job_another_is_a_conflict(jobs):
    first, _ = jobs.put_job("twin", "echo once", **on(jobs))
    again, _ = jobs.put_job("twin", "echo once", **on(jobs))
    assert (first, again) == (201, 200)
    jobs.wait("twin")
    after, _ = jobs.put_job("twin", "echo once", **on(jobs))
    assert after == 200
    other, body = jobs.put_job("twin", "echo twice", **on(jobs))
    assert other == 409
    assert "another" in body["error"]["message"]
    assert jobs.log("twin") == "once\n"
    assert len(jobs.job("twin")["attempts_list"]) == 1


# --- what a job is given and leaves


def test_environment_variables(jobs):
    command = 'echo "$GIVEN|$AZUREML_RUN_ID|$AZUREML_ARM_WORKSPACE_NAME|$AZUREML_RUN_ATTEMPT"'
    jobs.submit("variables", command, environmentVariables={"GIVEN": "a b=c"}, **on(jobs))
    jobs.wait("variables")
    assert jobs.log("variables") == "a b=c|variables|main|1\n"


@pytest.mark.parametrize("compute", ["local", "azureml:local"])
def test_local_is_this_host(jobs, compute):
    name = f"host-{compute.replace(':', '-')}"
    jobs.submit(name, "echo here", computeId=compute)
    job = jobs.wait(name)
    assert (job["status"], job["compute"]) == ("Completed", "local")
    jobs.check_ledger(name)


@pytest.mark.parametrize("mode", ["ReadOnlyMount", "ReadWriteMount", "Download", "Direct"])
def test_a_file_in_every_mode(jobs, mode):
    address = jobs.upload("modes", {"f.txt": "content"}) + "/f.txt"
    given = {"f": {"jobInputType": "uri_file", "mode": mode, "uri": address}}
    jobs.submit(
        f"mode-{mode}", "echo ${{inputs.f}}; cat ${{inputs.f}} 2>/dev/null; true", inputs=given, **on(jobs)
    )
    assert jobs.wait(f"mode-{mode}")["status"] == "Completed"
    said = jobs.log(f"mode-{mode}")
    if mode == "Direct":
        assert said.startswith("azureml://")
        assert said.rstrip().endswith("/modes/f.txt")
    else:
        assert said.endswith("/f.txt\ncontent")


def test_optional_parts(jobs):
    command = "echo a $[[--rate ${{inputs.rate}}]] $[[--depth ${{inputs.depth}}]] z"
    rate = {"rate": {"jobInputType": "literal", "value": "0.1"}}
    jobs.submit("optional", command, inputs=rate, **on(jobs))
    jobs.wait("optional")
    assert jobs.log("optional").split() == ["a", "--rate", "0.1", "z"]


def test_outputs_are_registered_and_are_inputs_of_the_next_job(jobs):
    command = (
        "echo weights > ${{outputs.model}}/w.txt; echo 1,2 > ${{outputs.table}}/t.csv; "
        "echo kept > outputs/k.txt"
    )
    outputs = {
        "model": {"jobOutputType": "custom_model", "mode": "ReadWriteMount", "assetName": "learned"},
        "table": {"jobOutputType": "uri_folder", "mode": "Upload", "assetName": "numbers"},
    }
    jobs.submit("makes", command, outputs=outputs, **on(jobs))
    job = jobs.wait("makes")
    assert job["status"] == "Completed"
    assert jobs.arm("GET", "models/learned/versions/1")[0] == 200
    why = jobs.native("jobs/makes/why")
    assert (why["code"], why["sentence"]) == ("Completed", "Completed.")
    follower = Follower(jobs, "makes")
    follower.start()
    follower.finished()
    assert follower.codes == codes(job)
    assert follower.codes[-5:] == ["Started", "Finalizing", "Registered", "Registered", "Completed"]
    times = [entry["elapsed_s"] for entry in job["timeline"]]
    assert times == sorted(times)
    assert jobs.arm("GET", "data/numbers/versions/1")[0] == 200
    inputs = {
        "a": {"jobInputType": "uri_folder", "uri": "azureml://jobs/makes/outputs/table"},
        "b": {"jobInputType": "uri_folder", "uri": "azureml:numbers@latest"},
        "c": {"jobInputType": "custom_model", "uri": "azureml:learned:1"},
        "d": {
            "jobInputType": "uri_file",
            "uri": "azureml://jobs/makes/outputs/artifacts/paths/outputs/k.txt",
        },
    }
    command = "cat ${{inputs.a}}/t.csv ${{inputs.b}}/t.csv ${{inputs.c}}/w.txt ${{inputs.d}}"
    jobs.submit("takes", command, inputs=inputs, **on(jobs))
    assert jobs.wait("takes")["status"] == "Completed"
    assert jobs.log("takes") == "1,2\n1,2\nweights\nkept\n"


def test_an_asset_that_exists_is_no_output(jobs):
    taken = {"jobOutputType": "uri_folder", "assetName": "taken", "assetVersion": "3"}
    jobs.submit("takes-a-name", "true", outputs={"o": taken}, **on(jobs))
    assert jobs.wait("takes-a-name")["status"] == "Completed"
    status, body = jobs.put_job("too-late", "true", outputs={"o": taken}, **on(jobs))
    assert (status, body["error"]["target"]) == (409, "properties.outputs.o")
    assert "Output 'o': Data asset taken:3 exists. Give another version" in body["error"]["message"]
    other = {**taken, "jobOutputType": "mltable", "assetVersion": "4"}
    status, body = jobs.put_job("too-late", "true", outputs={"o": other}, **on(jobs))
    assert status == 409
    assert "is of type uri_folder" in body["error"]["message"]


@pytest.mark.parametrize("ending", ["exit 3", "sleep 60"])
def test_what_a_job_wrote_before_it_failed_is_stored_if_it_was_mounted(jobs, ending):
    """Azure's default for outputs: checkpoints survive. No asset is made of them."""
    name = "fails-late" if ending == "exit 3" else "stops-late"
    outputs = {
        "ckpt": {"jobOutputType": "custom_model", "mode": "ReadWriteMount", "assetName": f"ckpt-{name}"},
        "result": {"jobOutputType": "uri_folder", "mode": "Upload"},
        "empty": {"jobOutputType": "uri_file"},
    }
    command = (
        f"echo 7 > ${{{{outputs.ckpt}}}}/epoch; echo x > ${{{{outputs.result}}}}/x; echo wrote; {ending}"
    )
    jobs.submit(name, command, outputs=outputs, **on(jobs))
    jobs.until_log(name, "wrote")
    if ending != "exit 3":
        jobs.cancel(name)
    job = jobs.wait(name)
    assert job["status"] == ("Failed" if ending == "exit 3" else "Canceled")
    assert jobs.stored(f"azureml/{name}/") == {"ckpt/epoch": b"7\n"}
    assert jobs.arm("GET", f"models/ckpt-{name}/versions/1")[0] == 404
    assert "Note" not in codes(job)[codes(job).index("Started") :]
    given = {"c": {"jobInputType": "uri_folder", "uri": f"azureml://jobs/{name}/outputs/ckpt"}}
    jobs.submit(f"{name}-next", "cat ${{inputs.c}}/epoch", inputs=given, **on(jobs))
    assert jobs.wait(f"{name}-next")["status"] == "Completed"
    assert jobs.log(f"{name}-next") == "7\n"


def test_an_output_of_a_job_that_runs_is_refused(jobs):
    jobs.submit("unfinished", "sleep 60", outputs={"o": {"jobOutputType": "uri_folder"}}, **on(jobs))
    given = {"a": {"jobInputType": "uri_folder", "uri": "azureml://jobs/unfinished/outputs/o"}}
    status, body = jobs.put_job("eager", "true", inputs=given, **on(jobs))
    assert status in (400, 409)
    assert "unfinished" in body["error"]["message"]
    jobs.cancel("unfinished")
    assert jobs.wait("unfinished")["status"] == "Canceled"


# --- many at once


def test_two_clusters_and_eight_jobs_at_once(jobs):
    for i in range(8):
        jobs.submit(
            f"eight-{i}", f"echo {i}; sleep 0.3; echo done {i}", **on(jobs, "cpu" if i % 2 else "other")
        )
    for i in range(8):
        job = jobs.wait(f"eight-{i}")
        assert job["status"] == "Completed"
        assert jobs.log(f"eight-{i}") == f"{i}\ndone {i}\n"
        jobs.check_ledger(f"eight-{i}")
    nodes = {n for i in range(8) for n in jobs.job(f"eight-{i}")["attempts_list"][0]["nodes"]}
    assert {n.rsplit("-", 1)[0] for n in nodes} == {"cpu", "other"}
    held = jobs.sql(
        "SELECT node_id, COUNT(*) FROM intervals WHERE kind = 'node' GROUP BY node_id HAVING COUNT(*) > 1"
    )
    assert held == []


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_thousand_jobs_run_once_each_and_the_cluster_goes_to_zero(jobs):
    jobs.cluster("many", high=2, idle="PT1S")
    connection = jobs.connection()
    headers = {"Authorization": f"Bearer {jobs.token()}", "Content-Type": "application/json"}
    body = {"properties": {"jobType": "Command", "command": "true", **on(jobs, "many")}}
    for i in range(1000):
        raw = json.dumps(body).encode()
        connection.request("PUT", f"{jobs.workspace}/jobs/many-{i}?api-version=2024-04-01", raw, headers)
        reply = connection.getresponse()
        assert reply.status == 201, reply.read()
        reply.read()
    connection.close()
    many = "FROM resources WHERE type_key = 'jobs' AND name LIKE 'many-%'"
    query = f"SELECT COUNT(*) {many} AND state = 'Completed'"
    until(lambda: jobs.sql(query)[0][0] == 1000, 400, "the end of 1,000 jobs")
    uids = f"SELECT uid {many}"
    assert jobs.sql(f"SELECT COUNT(*), MAX(number) FROM attempts WHERE job_uid IN ({uids})") == [(1000, 1)]
    ends = jobs.sql(f"SELECT COUNT(*) FROM events WHERE code = 'Completed' AND subject IN ({uids})")
    assert ends == [(1000,)]
    for i in range(0, 1000, 97):
        jobs.check_ledger(f"many-{i}")
    open_now = jobs.sql(f"SELECT COUNT(*) FROM intervals WHERE ended_at IS NULL AND job_uid IN ({uids})")
    assert open_now == [(0,)]
    until(lambda: not jobs.native("computes/many")["nodes_list"], what="scale to zero")
    held = "SELECT COUNT(*) FROM intervals WHERE kind = 'node' AND ended_at IS NULL AND node_id LIKE 'many-%'"
    assert jobs.sql(held) == [(0,)]
    until(lambda: not [n for n, pid in jobs.nodes().items() if n.startswith("many-") and alive(pid)])
