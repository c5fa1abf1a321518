"""A job that ends while no server listens is timed and billed by when it ended, not by when somebody came."""

from __future__ import annotations

import time

import pytest
from jobserver import JobServer

pytestmark = [pytest.mark.kill, pytest.mark.timeout(120)]


def test_neither_duration_nor_ledger_waits_for_the_server(tmp_path):
    server = JobServer(tmp_path / "home")
    server.start()
    try:
        name = "short"
        server.submit(name, "sleep 1; echo done")
        server.until_state(name, "Running")
        server.kill()
        time.sleep(4)  # the time that must not be billed; nothing is waited for
        server.start()
        job = server.wait(name, 30)
        assert job["status"] == "Completed"
        assert job["duration_s"] < 2.5
        assert job["price"]["seconds"] < 2.5
        server.check_ledger(name)
    finally:
        server.down()
