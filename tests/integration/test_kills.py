"""Kill -9 at any instant: the job completes, nothing is lost, nothing is there twice."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from jobserver import Follower, JobServer, until

pytestmark = pytest.mark.kill

SEED = int(os.environ.get("TIDEMILL_KILL_SEED", "1"))
LINES = [f"line {i:03d} of {{}}" for i in range(200)]
SCRIPT = """
import os, pathlib, sys, time
given = pathlib.Path(sys.argv[1]).read_text().strip()
began = time.monotonic()
for i in range(200):
    print(f"line {i:03d} of {given}")
    time.sleep(max(0.0, began + (i + 1) * 0.009 - time.monotonic()))
pathlib.Path(sys.argv[2], "result.txt").write_text(f"made of {given}")
sys.exit(int(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("kills") / "home")
    server.start()
    server.cluster("cpu", high=2)
    yield server
    server.end()


def submit(server: JobServer, name: str, exit_code: int) -> Follower:
    server.submit(
        name,
        f"python3 main.py ${{{{inputs.given}}}} ${{{{outputs.made}}}} {exit_code}",
        codeId=server.code(f"code-{name}", {"main.py": SCRIPT}),
        computeId=f"{server.workspace}/computes/cpu",
        inputs={
            "given": {
                "jobInputType": "uri_file",
                "mode": "Download",
                "uri": server.upload(f"in/{name}", {"given.txt": f"{name}\n"}) + "/given.txt",
            }
        },
        outputs={"made": {"jobOutputType": "uri_folder", "mode": "Upload"}},
    )
    follower = Follower(server, name)
    follower.start()
    return follower


def check(server: JobServer, name: str, follower: Follower, exit_code: int) -> None:
    job = server.wait(name)
    expected = [line.format(name) for line in LINES]
    codes = [entry["code"] for entry in job["timeline"]]
    assert job["status"] == ("Failed" if exit_code else "Completed"), job
    assert job["exit_code"] == exit_code
    assert [a["outcome"] for a in job["attempts_list"]] == ["Failed" if exit_code else "Succeeded"], codes
    assert server.log(name).splitlines() == expected
    follower.finished()
    assert follower.text.splitlines() == expected
    assert follower.seqs == sorted(set(follower.seqs))
    assert follower.codes == codes
    made = {} if exit_code else {"result.txt": f"made of {name}".encode()}
    assert server.stored(f"azureml/{name}/made/") == made
    assert codes.count("Submitted") == codes.count("Assigned") == codes.count("Started") == 1
    server.check_ledger(name)


@pytest.mark.parametrize("instant", range(10))
def test_control_process_is_killed(killed, instant):
    at = (random.Random(SEED * 1000 + instant).random() + instant) * 0.26
    exit_code = 3 if instant % 4 == 3 else 0
    name = f"control-{instant}"
    follower = submit(killed, name, exit_code)
    time.sleep(at)
    killed.kill()
    took = killed.start()
    print(f"killed {at:.3f} s after the submit, service again after {took:.2f} s")
    check(killed, name, follower, exit_code)


def data_pid(server: JobServer) -> int:
    return json.loads((server.home / "server.json").read_text())["data_pid"]


@pytest.mark.parametrize("instant", range(5))
def test_data_process_is_killed(killed, instant):
    at = (random.Random(SEED * 2000 + instant).random() + instant) * 0.52
    name = f"data-{instant}"
    before = data_pid(killed)
    follower = submit(killed, name, 0)
    time.sleep(at)
    os.kill(before, signal.SIGKILL)
    check(killed, name, follower, 0)
    until(lambda: data_pid(killed) != before, what="another data process")


def test_killed_again_and_again(killed):
    """Not one kill but many, at instants that also hit the starts."""
    chosen = random.Random(SEED * 3000)
    follower = submit(killed, "often", 0)
    for _ in range(4):
        time.sleep(chosen.random() * 0.5)
        killed.kill()
        killed.start()
    check(killed, "often", follower, 0)


def test_kills_during_submits(killed):
    """Every acknowledged job runs once; a submit that got no answer may be sent again."""
    chosen = random.Random(SEED * 4000)
    names = [f"during-{i}" for i in range(30)]
    acknowledged: list[str] = []

    def send() -> None:
        for name in names:
            while True:
                try:
                    killed.submit(name, f"echo {name}", computeId=f"{killed.workspace}/computes/cpu")
                    acknowledged.append(name)
                    break
                except (OSError, http.client.HTTPException, AssertionError):  # half an answer, too
                    time.sleep(0.02)
            time.sleep(0.03)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    for _ in range(2):
        time.sleep(chosen.random() * 0.4)
        killed.kill()
        killed.start()
    sender.join(90)
    assert acknowledged == names
    for name in names:
        job = killed.wait(name)
        assert job["status"] == "Completed"
        assert killed.log(name) == f"{name}\n"
        assert len(job["attempts_list"]) == 1
        killed.check_ledger(name)
