"""Jobs of several processes and nodes: what each is told, how they meet, how one failure ends all."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator

import pytest
from jobserver import JobServer, until

from pidspace import SAYS, WAITS, said

# A rendezvous as PyTorch's: rank 0 listens at MASTER_ADDR:MASTER_PORT until everyone has said its rank.
MEET = """
import os, socket, time
keys = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
me = {key: int(os.environ[key]) for key in keys}
where = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
print("me", *(f"{key}={value}" for key, value in me.items()))
if me["RANK"] == 0:
    server = socket.create_server(where)
    peers = [server.accept()[0] for _ in range(me["WORLD_SIZE"] - 1)]
    ranks = sorted(int(peer.recv(16)) for peer in peers)
    print("met", *ranks)
    for peer in peers:
        peer.sendall(b"go")
else:
    until = time.monotonic() + 60
    while True:
        try:
            peer = socket.create_connection(where)
            break
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.02)
    peer.sendall(str(me["RANK"]).encode())
    assert peer.recv(2) == b"go"
    print("went")
"""

# A parameter server runs for ever: it is ended when the workers are done, which is once all four have met.
FLOW = """
import json, os, socket, time
print(os.environ["TF_CONFIG"], flush=True)
told = json.loads(os.environ["TF_CONFIG"])
host, port = told["cluster"]["ps"][0].split(":")
if told["task"]["type"] == "ps":
    server = socket.create_server((host, int(port)))
    workers = [server.accept()[0] for _ in told["cluster"]["worker"]]
    for worker in workers:
        worker.sendall(b"go")
    time.sleep(600)
until = time.monotonic() + 60
while True:
    try:
        server = socket.create_connection((host, int(port)))
        break
    except OSError:
        assert time.monotonic() < until
        time.sleep(0.02)
assert server.recv(2) == b"go"
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("distributed") / "home", cancel_grace_s=1.0, close_grace_s=1.0)
    server.start()
    server.cluster("cpu", high=2)
    yield server
    server.end()


def spread(server: JobServer, nodes: int, distribution: dict | None = None) -> dict:
    given = {"distribution": distribution} if distribution else {}
    return {"computeId": f"{server.workspace}/computes/cpu", "resources": {"instanceCount": nodes}, **given}


def logs(server: JobServer, name: str) -> dict[str, str]:
    found = server.native(f"jobs/{name}/logs")["value"]
    return {item["path"]: server.log(name, item["path"]) for item in found}


def test_pytorch_two_nodes_two_processes_each(jobs):
    code = jobs.code("meet", {"meet.py": MEET})
    distribution = {"distributionType": "PyTorch", "processCountPerInstance": 2}
    jobs.submit("torch", "python3 meet.py", codeId=code, **spread(jobs, 2, distribution))
    job = jobs.wait("torch")
    said = logs(jobs, "torch")
    assert job["status"] == "Completed", said
    assert len(set(job["attempts_list"][0]["nodes"])) == 2
    assert said["user_logs/std_log_process_0.txt"].splitlines()[1] == "met 1 2 3"
    for rank in range(4):
        first = said[f"user_logs/std_log_process_{rank}.txt"].splitlines()[0]
        expected = (
            f"me RANK={rank} LOCAL_RANK={rank % 2} NODE_RANK={rank // 2} WORLD_SIZE=4 LOCAL_WORLD_SIZE=2"
        )
        assert first == expected
    jobs.check_ledger("torch")


def test_tensorflow_is_told_its_cluster(jobs):
    distribution = {"distributionType": "TensorFlow", "workerCount": 3, "parameterServerCount": 1}
    code = jobs.code("flow", {"flow.py": FLOW})
    jobs.submit("flow", "python3 flow.py", codeId=code, **spread(jobs, 2, distribution))
    job = jobs.wait("flow")
    said = logs(jobs, "flow")
    assert job["status"] == "Completed", said
    told = [json.loads(text.splitlines()[0]) for text in said.values()]
    tasks = sorted((t["task"]["type"], t["task"]["index"]) for t in told)
    assert tasks == [("ps", 0), ("worker", 0), ("worker", 1), ("worker", 2)]
    assert len({json.dumps(t["cluster"]) for t in told}) == 1
    cluster = told[0]["cluster"]
    assert (len(cluster["worker"]), len(cluster["ps"])) == (3, 1)
    assert len({*cluster["worker"], *cluster["ps"]}) == 4


def test_one_failing_rank_stops_the_others(jobs):
    distribution = {"distributionType": "PyTorch", "processCountPerInstance": 2}
    code = jobs.code("breaks", {"meet.py": MEET})  # all of them run when one breaks
    command = "python3 meet.py; [ $RANK != 2 ] || { echo broken >&2; exit 7; }; sleep 300"
    jobs.submit("breaks", command, codeId=code, **spread(jobs, 2, distribution))
    job = jobs.wait("breaks")
    assert (job["status"], job["exit_code"]) == ("Failed", 7)
    assert "Rank 2" in job["error"]["message"]
    assert job["error"]["message"].endswith("broken")
    assert len(logs(jobs, "breaks")) == 4
    jobs.check_ledger("breaks")


def test_two_nodes_without_a_distribution_run_the_command_on_each(jobs):
    jobs.submit("each", "echo node $NODE_RANK of $AZUREML_NODE_COUNT", **spread(jobs, 2))
    assert jobs.wait("each")["status"] == "Completed"
    assert sorted(logs(jobs, "each").values()) == ["node 0 of 2\n", "node 1 of 2\n"]


def test_a_gang_waits_until_it_fits_whole(jobs):
    jobs.submit("single", WAITS + "exit 0", **spread(jobs, 1))
    pid = said(jobs.until_log("single", "\n"))
    jobs.submit("gang", "echo on", **spread(jobs, 2))
    until(lambda: "2 nodes" in jobs.native("jobs/gang/why")["sentence"], what="that it waits for 2 nodes")
    assert jobs.job("gang")["attempts_list"] == []
    os.kill(pid, signal.SIGUSR1)
    assert jobs.wait("gang")["status"] == "Completed"


def test_cancel_ends_every_rank(jobs):
    distribution = {"distributionType": "PyTorch", "processCountPerInstance": 2}
    jobs.submit("stops", SAYS + "; exec sleep 300", **spread(jobs, 2, distribution))
    paths = [f"user_logs/std_log_process_{rank}.txt" for rank in range(4)]
    pids = [said(jobs.until_log("stops", "\n", path=path)) for path in paths]
    jobs.cancel("stops")
    assert jobs.wait("stops")["status"] == "Canceled"
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_mpi(jobs):
    distribution = {"distributionType": "Mpi", "processCountPerInstance": 2}
    jobs.submit("mpi", "echo rank $OMPI_COMM_WORLD_RANK", **spread(jobs, 1, distribution))
    job = jobs.wait("mpi")
    if shutil.which("mpirun"):
        assert job["status"] == "Completed", jobs.log("mpi")
        assert sorted(jobs.log("mpi").splitlines()) == ["rank 0", "rank 1"]
    else:
        assert (job["status"], job["error"]["code"]) == ("Failed", "MpiMissing")
        assert "openmpi-bin" in job["error"]["message"]


def test_ray_without_ray_says_so(jobs):
    jobs.submit("ray", "python3 x.py", **spread(jobs, 2, {"distributionType": "Ray"}))
    job = jobs.wait("ray")
    assert (job["status"], job["error"]["code"]) == ("Failed", "RayMissing")
    assert "ray[default]" in job["error"]["message"]
