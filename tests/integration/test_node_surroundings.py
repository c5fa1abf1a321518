"""What surrounds a job on its node, seen through the server: its disk and its network."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from jobserver import JobServer, until

from pidspace import SAYS, said

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: work disks and network namespaces"),
]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
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
    nodes = jobs.native("computes/one")["nodes_list"]
    line = until(lambda: nodes[-1]["limits"]["disk"], what="the limits report")
    assert line["enforced"], line
    stated = float(line["by"].split()[-2]) * 2**30
    assert 0.9 * stated < int(jobs.log("asks")) <= stated
