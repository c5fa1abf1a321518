"""Parallel steps with real processes: each item once in the output, whoever is killed in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobserver import JobServer, until

pytestmark = [pytest.mark.kill, pytest.mark.timeout(180)]

FILES = 40
# Beside its result, each run() notes that it ran: in the log, which nothing takes back.
SCRIPT = """
import argparse, os, pathlib, sys, time
def init():
    global given
    parser = argparse.ArgumentParser()
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--made", default="")
    parser.add_argument("--bad", default="")
    given, _ = parser.parse_known_args()
def run(mini_batch):
    names = [os.path.basename(path) for path in mini_batch]
    if given.bad in names:
        raise ValueError("this is no " + given.bad)
    time.sleep(given.pause)
    for name in names:
        if given.made:
            (pathlib.Path(given.made) / name).write_text("made")
    print("ran " + ",".join(names) + "\\n", end="", flush=True)  # in one piece: others print beside it
    return [name + " " + pathlib.Path(path).read_text() for name, path in zip(names, mini_batch)]
def shutdown():
    print("shut down", flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("parallel") / "home")
    made.start()
    made.cluster("cpu", high=3)
    yield made
    made.end()


def step(server: JobServer, arguments: str = "", **settings: Any) -> dict[str, Any]:
    code = server.code("batches", {"score.py": SCRIPT})
    return {
        "type": "parallel",
        "task": {
            "type": "run_function",
            "code": f"azureml:{code}",
            "entry_script": "score.py",
            "program_arguments": arguments,
            "append_row_to": "${{outputs.rows}}",
        },
        "input_data": "${{inputs.data}}",
        "inputs": {"data": {"job_input_type": "literal", "value": "${{parent.inputs.data}}"}},
        "outputs": {"rows": {"type": "uri_file"}, "made": {"type": "uri_folder"}},
        "mini_batch_size": "2",
        **settings,
    }


def submit(server: JobServer, name: str, body: dict[str, Any]) -> str:
    """-> the name of the step's job."""
    uri = server.upload("items", {f"i{number:02}": f"v{number}" for number in range(FILES)})
    asked = {
        "jobType": "Pipeline",
        "inputs": {"data": {"jobInputType": "uri_folder", "uri": uri}},
        "jobs": {"score": body},
        "settings": {"default_compute": f"{server.workspace}/computes/cpu"},
    }
    status, answer = server.arm("PUT", f"jobs/{name}", {"properties": asked})
    assert status == 201, answer
    children = until(lambda: server.native(f"jobs?parent={name}&limit=9")["value"])
    return str(children[0]["name"])


def rows(server: JobServer, job: dict[str, Any]) -> list[str]:
    path = job["outputs"]["rows"]["uri"].split("/paths/", 1)[1]
    (text,) = server.stored(path).values()
    return text.decode().splitlines()


EXPECTED = [f"i{number:02} v{number}" for number in range(FILES)]


def test_batches_on_two_nodes(server: JobServer) -> None:
    body = step(server, resources={"instance_count": 2}, max_concurrency_per_instance=2)
    name = submit(server, "two", body)
    server.wait("two", 90)
    job = server.job(name)
    assert job["status"] == "Completed", job["error"]["message"]
    assert rows(server, job) == EXPECTED
    status, answer = server.call(
        "POST", f"/api/v1{server.workspace}/jobs/{name}/batches/abc/0", {"progress": {}}
    )
    assert (status, answer["error"]["message"]) == (
        403,
        f"Only job {name!r} itself says what it has finished.",
    )
    assert job["parallel"] == {
        "total": 20,
        "finished": 20,
        "failed": 0,
        "items": FILES,
        "item_errors": 0,
        "workers": job["parallel"]["workers"],
    }


def ran(server: JobServer, name: str) -> list[str]:
    """Every item that a run() has seen, of all attempts and nodes."""
    texts = server.stored(f"ExperimentRun/dcid.{name}/", "azureml")
    logs = [text.decode() for path, text in texts.items() if "std_log" in path]
    lines = [line for text in logs for line in text.splitlines() if line.startswith("ran ")]
    return [item for line in lines for item in line[4:].split(",")]


def finished(server: JobServer, name: str, least: int, most: int = FILES // 2 - 1) -> int:
    def enough() -> int:
        now = server.job(name)["parallel"]
        return now["finished"] if now and now["finished"] >= least else 0

    found = until(enough, what=f"{least} batches")
    assert found <= most, "it was too fast to be killed in the middle"
    return found


def test_the_server_is_killed_and_nothing_is_done_twice(server: JobServer) -> None:
    body = step(server, "--pause 0.3", max_concurrency_per_instance=2)
    name = submit(server, "serverless-for-a-while", body)
    before = finished(server, name, 3)
    server.kill()
    time.sleep(0.5)  # batches go on meanwhile; what they made waits for the server
    server.start()
    assert server.job(name)["parallel"]["finished"] >= before
    server.wait("serverless-for-a-while", 90)
    job = server.job(name)
    assert job["status"] == "Completed", job["error"]["message"]
    assert rows(server, job) == EXPECTED
    assert job["attempts"] == 1
    assert sorted(ran(server, name)) == [row.split()[0] for row in EXPECTED]


def agent_of(server: JobServer, name: str, index: int) -> int:
    return server.nodes()[server.job(name)["attempts_list"][-1]["nodes"][index]]


def test_a_node_beside_is_lost_and_the_others_do_its_batches(server: JobServer) -> None:
    arguments = "--pause 0.3 --made ${{outputs.made}}"
    name = submit(server, "beside", step(server, arguments, resources={"instance_count": 2}))
    finished(server, name, 4)
    os.kill(agent_of(server, name, 1), signal.SIGKILL)
    server.wait("beside", 90)
    job = server.job(name)
    assert job["status"] == "Completed", job["error"]["message"]
    assert job["attempts"] == 1
    assert rows(server, job) == EXPECTED
    made = server.stored(job["outputs"]["made"]["uri"].split("/paths/", 1)[1])
    assert sorted(Path(path).name for path in made) == [row.split()[0] for row in EXPECTED]


def test_the_first_node_is_lost_and_what_is_finished_stays(server: JobServer) -> None:
    arguments = "--pause 0.35 --made ${{outputs.made}}"
    name = submit(server, "first", step(server, arguments, resources={"instance_count": 2}))
    done = finished(server, name, 5)
    os.kill(agent_of(server, name, 0), signal.SIGKILL)
    server.wait("first", 90)
    job = server.job(name)
    assert job["status"] == "Completed", job["error"]["message"]
    assert job["attempts"] == 2
    assert rows(server, job) == EXPECTED
    # At most what was under way, or not on disk yet, was done again.
    assert len(ran(server, name)) <= FILES + 2 * 4
    log = server.log(name, "user_logs/std_log_process_0.txt")
    (line,) = [line for line in log.splitlines() if "finished before" in line]
    assert int(line.split("mini-batches, ")[1].split()[0]) >= done
    made = server.stored(job["outputs"]["made"]["uri"].split("/paths/", 1)[1])
    assert sorted(Path(path).name for path in made) == [row.split()[0] for row in EXPECTED]


def test_a_failed_batch_names_its_items_and_the_fix(server: JobServer) -> None:
    body = step(
        server,
        "--bad i05",
        mini_batch_error_threshold=0,
        retry_settings={"max_retries": 1, "timeout": 30},
    )
    name = submit(server, "bad", body)
    server.wait("bad", 60)
    message = server.job(name)["error"]["message"]
    for words in ("i04, i05", "in each of 2 tries", "ValueError: this is no i05", "score.py", "Mend run()"):
        assert words in message, message
    assert "serving/batch" not in message.replace("\\", "/"), "frames of ours hide the user's"


def test_failures_that_are_allowed(server: JobServer) -> None:
    body = step(server, "--bad i05", mini_batch_error_threshold=1, retry_settings={"max_retries": 0})
    name = submit(server, "allowed", body)
    server.wait("allowed", 90)
    job = server.job(name)
    assert job["status"] == "Completed", job["error"]["message"]
    assert rows(server, job) == [row for row in EXPECTED if row[:3] not in ("i04", "i05")]
    assert (job["parallel"]["failed"], job["parallel"]["item_errors"]) == (1, 2)


def test_a_slow_batch_is_ended_and_holds_up_nobody(server: JobServer) -> None:
    body = step(
        server,
        "--pause 60",
        mini_batch_size="39",
        mini_batch_error_threshold=1,
        max_concurrency_per_instance=2,
        retry_settings={"max_retries": 0, "timeout": 1},
    )
    name = submit(server, "slow", body)
    server.wait("slow", 90)
    job = server.job(name)
    assert job["status"] == "Failed"
    assert "retry_settings.timeout, 1 s" in job["error"]["message"]
    assert "2 of 2 mini-batches failed, and mini_batch_error_threshold allows 1" in job["error"]["message"]


def test_alone_it_is_refused(server: JobServer) -> None:
    status, answer = server.arm("PUT", "jobs/alone", {"properties": {"jobType": "Parallel"}})
    assert status == 400
    assert "a step of a pipeline" in answer["error"]["message"]
