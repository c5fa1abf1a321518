"""The processes that run batches, with a stand-in for the service: order, restarts, deaths, lost answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

MAIN = Path(__file__).parents[3] / "src/tidemill/serving/batch/main.py"
SCRIPT = """
import os, pathlib, signal, sys, time
def init():
    if "--broken" in sys.argv:
        raise RuntimeError("no model here")
    if "--both" in sys.argv:
        folder = pathlib.Path(__file__).parent
        (folder / f"{os.getpid()}.began").touch()
        while len(list(folder.glob("*.began"))) < 2:
            time.sleep(0.01)
def run(mini_batch):
    names = [os.path.basename(path) for path in mini_batch]
    if "f3" in names and "--die" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    if "f3" in names and "--leave" in sys.argv:
        sys.exit(0)
    if "--none" in sys.argv:
        return None
    return names
def shutdown():
    print("shut down", flush=True)
"""


class Service(ThreadingHTTPServer):
    """Keeps segments; loses every other answer to one, after it is kept."""

    daemon_threads = True

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.lost: set[str] = set()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        self._answer(200 if self.path in self.server.kept else 404, self.server.kept.get(self.path, b""))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("progress"):
            return self._answer(204, b"")
        assert self.server.kept.setdefault(self.path, body) == body, "a segment is never another one"
        if self.path not in self.server.lost:
            self.server.lost.add(self.path)
            self.close_connection = True
            return None
        return self._answer(204, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def run(folder: Path, service: Service, arguments: str = "", **settings: Any) -> tuple[int, str]:
    (folder / "in").mkdir(exist_ok=True)
    for number in range(10):
        (folder / "in" / f"f{number}").write_text("")
    (folder / "s.py").write_text(SCRIPT)
    rows = str(folder / "out" / "rows.txt")
    spec = {"version": 1, "script": str(folder / "s.py"), "input": str(folder / "in"), "append_to": rows}
    spec |= {"size": 2, "arguments": arguments, "concurrency": 2, **settings}
    (folder / "spec.json").write_text(json.dumps(spec))
    with socket.socket() as kept:  # bound until it is over: nobody else gets the port
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        done = subprocess.run(
            [sys.executable, str(MAIN), str(folder / "spec.json")],
            env={
                **os.environ,
                "TIDEMILL_BATCH_ADDRESS": f"127.0.0.1:{kept.getsockname()[1]}",
                "TIDEMILL_BATCH_LEDGER": f"http://127.0.0.1:{service.server_port}/job",
                "AZUREML_RUN_TOKEN": "word",
            },
            capture_output=True,
            text=True,
            timeout=110,
        )
    return done.returncode, done.stdout + done.stderr


def rows_in(folder: Path) -> list[str]:
    return (folder / "out" / "rows.txt").read_text().splitlines()


ALL = [f"f{number}" for number in range(10)]


def test_every_item_once_in_order_though_answers_are_lost(tmp_path, service):
    code, log = run(tmp_path, service, "--both")
    assert code == 0, log
    assert rows_in(tmp_path) == ALL
    assert log.count("shut down") == 2
    (tmp_path / "out" / "rows.txt").unlink()
    code, log = run(tmp_path, service, "--both")
    assert code == 0, log
    assert "5 mini-batches, 5 of them finished before" in log
    assert rows_in(tmp_path) == ALL


def test_another_cut_begins_anew(tmp_path, service):
    run(tmp_path, service)
    code, log = run(tmp_path, service, size=3)
    assert code == 0, log
    assert "finished before" not in log
    assert rows_in(tmp_path) == ALL


@pytest.mark.parametrize(
    ("word", "said"), [("--die", "ended by SIGKILL in run()"), ("--leave", "SystemExit: 0")]
)
def test_a_worker_that_dies_fails_its_batch_alone(tmp_path, service, word, said):
    code, log = run(tmp_path, service, word, retries=1, batch_errors=1)
    assert code == 0, log
    assert said in log
    assert rows_in(tmp_path) == [name for name in ALL if name not in ("f2", "f3")]


def test_an_init_that_fails_ends_it_at_once(tmp_path, service):
    code, log = run(tmp_path, service, "--broken")
    assert code == 1
    assert "init() failed on node 0" in log
    assert "RuntimeError: no model here" in log
    assert 's.py", line 5' in log


def test_what_is_no_result_is_said(tmp_path, service):
    code, log = run(tmp_path, service, "--none", retries=0, batch_errors=0)
    assert code == 1
    assert "run() must return a list, an array or a pandas DataFrame" in log


def test_a_script_that_is_not_there(tmp_path, service):
    code, log = run(tmp_path, service, script=str(tmp_path / "no.py"))
    assert code == 1
    assert "The code has no file 'no.py': task.entry_script is below task.code" in log
