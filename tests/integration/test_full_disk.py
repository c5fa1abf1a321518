"""A home on a disk that fills up: refused or failed with that word, nothing corrupt, and on it goes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from jobserver import JobServer, until

from pidspace import WAITS, said

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root"),
]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[JobServer]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        message = f"no small disk can be mounted here: {mounted.stderr.decode()}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    server = JobServer(disk / "home")
    try:
        server.start()
        server.cluster("cpu", high=1)
        server.submit("warm", "true", computeId=f"{server.workspace}/computes/cpu")
        assert server.wait("warm")["status"] == "Completed"
        yield server
    finally:
        server.end()
        subprocess.run(["umount", "-l", disk], check=True)


@contextlib.contextmanager
def full(server: JobServer) -> Iterator[None]:
    filler = server.home.parent / "filler"
    try:
        with open(filler, "wb", buffering=0) as file:
            until(lambda: fill(file) and shutil.disk_usage(server.home).free == 0, what="a full disk")
        yield
    finally:
        filler.unlink()


def fill(file: BinaryIO) -> bool:
    """Writes as much as there is room for. The server beside it may take or give room meanwhile."""
    size = 1 << 20
    while size:
        try:
            file.write(bytes(size))
        except OSError:
            size //= 16
    return True


def on(server: JobServer) -> dict:
    return {"computeId": f"{server.workspace}/computes/cpu"}


def sound(server: JobServer) -> None:
    for path in ("db/tidemill.db", "db/tracking.db", "blobs/index.db"):
        with contextlib.closing(sqlite3.connect(server.home / path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path


def fill_until_refused(server: JobServer) -> tuple[list[str], dict]:
    """A log that has space of its own left takes a few more jobs. -> those, and the refusal."""
    taken: list[str] = []
    for i in range(2000):
        status, body = server.put_job(f"more-{i}", "echo on", tags={"much": "x" * 4000}, **on(server))
        if status >= 400:
            assert status == 507, body
            return taken, body["error"]
        taken.append(f"more-{i}")
    raise AssertionError("a full disk took 2,000 jobs")


def test_submits_are_refused_and_go_on_afterwards(small):
    with full(small):
        taken, error = fill_until_refused(small)
        assert error["code"] == "InsufficientStorage"
        assert "space" in error["message"]
        assert small.job("warm")["status"] == "Completed"  # reading goes on
        assert small.call("GET", "/api/v1/status")[0] == 200
    for name in [*taken, small.submit("after", "echo on", **on(small))]:
        job = small.wait(name)
        # Taken while the disk was full: it ran, or failed with that word.
        assert job["status"] == "Completed" or "space" in job["error"]["message"], job
    assert small.wait("after")["status"] == "Completed"
    assert small.log("after") == "on\n"
    sound(small)


def test_outputs_wait_for_space(small):
    outputs = {"o": {"jobOutputType": "uri_folder", "mode": "Upload"}}
    command = "head -c 5000000 /dev/zero > ${{outputs.o}}/f; " + WAITS + "exit 0"
    small.submit("makes", command, outputs=outputs, **on(small))
    pid = said(small.until_log("makes", "\n"))
    with full(small):
        os.kill(pid, 10)
        until(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of the job's process")
        assert small.job("makes")["status"] not in ("Completed", "Failed")
        assert small.stored("azureml/makes/o/") == {}
    job = small.wait("makes")
    assert job["status"] == "Completed", job["error"]
    assert {name: len(data) for name, data in small.stored("azureml/makes/o/").items()} == {"f": 5_000_000}
    assert any("space on the disk" in entry["message"] for entry in job["timeline"])
    small.check_ledger("makes")
    sound(small)


def test_a_job_that_fills_the_disk_itself_fails_with_that_word(small):
    small.submit("greedy", "head -c 100000000 /dev/zero > big", **on(small))
    job = small.wait("greedy")
    assert job["status"] == "Failed"
    assert "No space left on device" in job["error"]["message"]
    small.submit("next", "echo fine", **on(small))
    assert small.wait("next")["status"] == "Completed"
    sound(small)


def test_a_job_whose_log_does_not_fit_fails_with_that_word(small):
    small.submit("talks", WAITS + "head -c 100000 /dev/zero || exit 5", **on(small))
    pid = said(small.until_log("talks", "\n"))
    with full(small):
        os.kill(pid, 10)
        until(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of the job's process")
    job = small.wait("talks")
    assert (job["status"], job["exit_code"]) == ("Failed", 5)
    assert any("space" in entry["message"] for entry in job["timeline"])
    sound(small)


def test_killed_on_a_full_disk_and_started_with_space(small):
    small.submit("stays", WAITS + "echo done", **on(small))
    pid = said(small.until_log("stays", "\n"))
    with full(small):
        fill_until_refused(small)
        small.kill()
        os.kill(pid, 10)
    small.start()
    job = small.wait("stays")
    assert job["status"] == "Completed", job["error"]
    sound(small)


def test_staging_into_a_full_disk_fails_with_that_word(small):
    address = small.upload("in", {"big": "x" * 20_000_000}) + "/big"
    given = {"big": {"jobInputType": "uri_file", "mode": "Download", "uri": address}}
    filler = small.home.parent / "half"
    filler.write_bytes(bytes(shutil.disk_usage(small.home).free - 8_000_000))
    small.submit("large", "true", inputs=given, **on(small))
    job = small.wait("large")
    filler.unlink()
    assert (job["status"], job["error"]["code"]) == ("Failed", "InsufficientStorage")
    assert "space" in job["error"]["message"]
    small.submit("large-again", "wc -c < ${{inputs.big}}", inputs=given, **on(small))
    assert small.wait("large-again")["status"] == "Completed"
    assert small.log("large-again") == "20000000\n"
    sound(small)
