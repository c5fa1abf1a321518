"""A job that ends while no server listens is timed and billed by when it ended, not by when somebody came."""

from __future__ import annotations

import json
import time

import pytest
from jobserver import JobServer, until

from tidemill.helper.nodedir import home_id
from tidemill.sandbox import processes

pytestmark = pytest.mark.kill


def test_neither_duration_nor_ledger_waits_for_the_server(tmp_path):
    server = JobServer(tmp_path / "home")
    server.start()
    try:
        name, began = "short", time.monotonic()
        server.submit(name, "sleep 1; echo done")
        server.until_state(name, "Running")
        server.kill()
        (attempt, nodes), *_ = server.sql("SELECT id, nodes FROM attempts")
        marker = processes.marker(home_id(server.home), json.loads(nodes)[0], f"{attempt}/0")
        until(lambda: not processes.marked(marker), what="its end")
        ended = time.monotonic()
        time.sleep(4)  # the time that must not be billed; nothing is waited for
        server.start()
        job = server.wait(name)
        assert job["status"] == "Completed"
        most = ended + 2 - began  # whoever times it may be later than this test to see its end
        assert job["duration_s"] < most
        assert job["price"]["seconds"] < most
        server.check_ledger(name)
    finally:
        server.end()
