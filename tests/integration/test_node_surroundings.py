"""What surrounds a job on its node, seen through the server: its disk and its network."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator

import pytest
from jobserver import JobServer, until

from connections import connected
from hostcan import need, no_disk, no_network
from pidspace import SAYS, WAITS, said

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    need(no_disk() or no_network())
    server = JobServer(tmp_path_factory.mktemp("jobs") / "home")
    server.start()
    server.cluster("one", high=1)
    server.cluster("other", high=1)
    yield server
    server.end()


def on(server: JobServer, compute: str = "one") -> dict:
    return {"computeId": f"{server.workspace}/computes/{compute}"}


# --- the disk


def test_a_job_that_fills_its_disk_says_so_and_harms_nobody(jobs):
    # Takes the space without writing it: the disk is as large as the size's.
    fill = "fallocate -l $(df -B1 --output=avail . | tail -1) big; echo too much > more"
    jobs.submit(
        "next-door",
        "trap go=1 USR1; " + SAYS + "; until [ $go ]; do sleep 0.05; done; echo on",
        **on(jobs, "other"),
    )
    pid = said(jobs.until_log("next-door", "\n"))
    jobs.submit("fills", fill, **on(jobs))
    job = jobs.wait("fills")
    assert (job["status"], job["error"]["code"]) == ("Failed", "DiskFull")
    assert "Disk full" in job["error"]["message"]
    assert "larger disk" in job["error"]["message"]
    os.kill(pid, 10)
    assert jobs.wait("next-door")["status"] == "Completed"
    assert jobs.log("next-door").endswith("on\n")
    jobs.submit("after", "echo room > outputs/x", **on(jobs))  # the same node: the directory is gone
    after = jobs.wait("after")
    assert after["status"] == "Completed", (after["error"], jobs.log("after"))


def test_a_node_shows_the_size_of_its_disk(jobs):
    jobs.submit("asks", "df -B1 --output=size . | tail -1", **on(jobs))
    assert jobs.wait("asks")["status"] == "Completed"
    line = jobs.native("computes/one")["nodes_list"][-1]["limits"]["disk"]
    assert line["enforced"], line
    stated = float(line["by"].split()[-2]) * 2**30
    assert 0.9 * stated < int(jobs.log("asks")) <= stated


# --- the network

# Plain urllib: what a training script's own client does.
ASK = """
import json, os, urllib.request
def get(address):
    headers = {"Authorization": "Bearer " + os.environ["AZUREML_RUN_TOKEN"]}
    return json.load(urllib.request.urlopen(urllib.request.Request(address, headers=headers)))
service, run = os.environ["AZUREML_SERVICE_ENDPOINT"], os.environ["AZUREML_RUN_ID"]
job = get(service + os.environ["AZUREML_WORKSPACE_SCOPE"] + f"/jobs/{run}?api-version=2024-04-01")
tracked = get(os.environ["MLFLOW_TRACKING_URI"] + f"/api/2.0/mlflow/runs/get?run_id={run}")
print(service, job["name"], tracked["run"]["info"]["run_id"])
"""


def test_a_job_reaches_the_service_and_nothing_else(jobs):
    code = jobs.code("asks", {"ask.py": ASK})
    probe = "; (exec 3<>/dev/tcp/127.0.0.1/22) 2>&1 | grep -om1 refused; tail -n +2 /proc/net/route | wc -l"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = f"; (exec 3<>/dev/tcp/127.0.0.1/{listener.getsockname()[1]}) 2>&1 | grep -om1 refused"
        jobs.submit("asks-service", "python3 ask.py" + probe + other, codeId=code, **on(jobs))
        assert jobs.wait("asks-service")["status"] == "Completed"
    https = jobs.state["addresses"]["https"]
    assert jobs.log("asks-service").split() == [https, *["asks-service"] * 2, "refused", "0", "refused"]


def test_two_nodes_of_a_job_share_one_network_and_two_jobs_do_not(jobs):
    jobs.cluster("pair", high=2)
    say = "readlink /proc/self/ns/net"
    for name in ("pair-1", "pair-2"):
        jobs.submit(name, say, resources={"instanceCount": 2}, **on(jobs, "pair"))
        assert jobs.wait(name)["status"] == "Completed"
    first, second = (
        [jobs.log(name, f"user_logs/std_log_process_{i}.txt") for i in (0, 1)]
        for name in ("pair-1", "pair-2")
    )
    assert first[0] == first[1]
    jobs.submit("alone", say, **on(jobs))
    assert jobs.wait("alone")["status"] == "Completed"
    assert jobs.log("alone") not in (*first, *second)
    assert os.readlink("/proc/self/ns/net") not in (first[0].strip(), jobs.log("alone").strip())


def test_a_compute_may_open_a_way_out(jobs):
    inner = {"vmSize": "Standard_DS2_v2", "scaleSettings": {"maxNodeCount": 1}}
    body = {"location": "eastus", "properties": {"computeType": "AmlCompute", "properties": inner}}
    status, answer = jobs.arm("PUT", "computes/open", {**body, "tags": {"tidemill.egress": "https://x"}})
    assert (status, answer["error"]["code"]) == (400, "InvalidEgress"), answer
    assert "'https://x' has no port" in answer["error"]["message"]
    status, answer = jobs.arm("PUT", "computes/open", {**body, "tags": {"tidemill.egress": "pypi.org:443"}})
    assert status in (200, 201), answer
    jobs.submit("goes-out", "env | grep -i _proxy | sort", **on(jobs, "open"))
    assert jobs.wait("goes-out")["status"] == "Completed"
    assert "https_proxy=http://127.0.0.1:3128\n" in jobs.log("goes-out")
    assert "NO_PROXY=localhost,127.0.0.1,::1\n" in jobs.log("goes-out")
    line = jobs.native("computes/open")["nodes_list"][-1]["limits"]["network"]
    assert line["by"].endswith("HTTP proxy to pypi.org:443")


def test_a_job_goes_on_through_a_restart_on_other_ports(jobs):
    """Last: the ports of this server change."""
    code = jobs.code("asks-late", {"ask.py": ASK})
    jobs.submit("asks-late", WAITS + "exec python3 ask.py", codeId=code, **on(jobs))
    pid = said(jobs.until_log("asks-late", "pid:"))
    told = jobs.state["addresses"]["https"]
    jobs.down()
    config = json.loads((jobs.home / "config.json").read_bytes())
    (jobs.home / "config.json").write_text(json.dumps({**config, "ports": {}}))
    os.kill(pid, signal.SIGUSR1)  # it asks while nobody is there
    until(lambda: connected(pid), what="the job's call, which the relay holds")
    jobs.start()
    assert jobs.state["addresses"]["https"] != told
    assert jobs.wait("asks-late")["status"] == "Completed", jobs.log("asks-late")
    assert jobs.log("asks-late").splitlines()[-1].split() == [told, "asks-late", "asks-late"]
