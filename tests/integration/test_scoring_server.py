"""The scoring server as a process: entry scripts, errors, crashes, hangs, draining."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest
from jobserver import alive, until
from scoringserver import Scoring, scoring

SCRIPT = """
import json, os, time

def init():
    print("init was called")

def run(raw_data):
    data = json.loads(raw_data)
    action = data.get("do") if isinstance(data, dict) else None
    if action == "fail":
        raise ValueError("the user's own words")
    if action == "exit":
        raise SystemExit(7)
    if action == "segv":
        os.kill(os.getpid(), 11)
    if action == "wait":
        open(data["started"], "w").close()
        while not os.path.exists(data["go"]):
            time.sleep(0.01)
    if action == "sleep":
        open(data["started"], "w").close()
        time.sleep(data["s"])
    if action == "text":
        return json.dumps({"a": 1})
    if action == "nan":
        return [float("nan"), None]
    if action == "set":
        return {1, 2}
    if action == "stream":
        return (f"part {i}|" for i in range(3))
    if action == "half":
        return halves()
    return {"got": data, "pid": os.getpid()}

def halves():
    yield "one"
    raise RuntimeError("in the middle")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scoring]:
    with scoring(tmp_path_factory.mktemp("scoring"), SCRIPT) as running:
        yield running


def test_a_request_reaches_run_as_text_and_its_result_is_json(server: Scoring) -> None:
    reply = server.score({"data": [1, 2]})
    assert (reply.status, reply.json["got"]) == (200, {"data": [1, 2]})
    assert reply.headers["content-type"] == "application/json"
    assert float(reply.headers["x-ms-run-fn-exec-ms"]) >= 0
    assert reply.headers["x-ms-run-function-failed"] == "False"
    assert "init was called" in server.log


def test_a_get_passes_its_query_as_json(server: Scoring) -> None:
    reply = server.ask("GET", "/score?a=1&b=x&c=[1,2]&d=u&d=2")
    assert reply.json["got"] == {"a": 1, "b": "x", "c": [1, 2], "d": ["u", 2]}


def test_a_string_is_a_json_string_as_on_azure(server: Scoring) -> None:
    assert json.loads(server.score({"do": "text"}).json) == {"a": 1}


def test_nan_stays_nan_and_null_stays_null(server: Scoring) -> None:
    assert server.score({"do": "nan"}).body == b"[NaN, null]"


@pytest.mark.parametrize(
    ("action", "said"), [("fail", "ValueError: the user's own words"), ("exit", "SystemExit: 7")]
)
def test_what_run_raises_is_in_the_log_and_not_in_the_answer(server: Scoring, action: str, said: str) -> None:
    reply = server.score({"do": action})
    assert reply.status == 500
    assert reply.json == {
        "message": "An unexpected error occurred in scoring script. Check the logs for more info."
    }
    assert reply.headers["x-ms-run-function-failed"] == "True"
    assert said in server.log
    assert server.score({}).status == 200


def test_what_is_no_json_is_the_script_s_failure(server: Scoring) -> None:
    assert server.score({"do": "set"}).status == 500
    assert "TypeError: Object of type set is not JSON serializable" in server.log


def test_ids_are_answered_as_azure_does(server: Scoring) -> None:
    made = server.score({}).headers
    assert made["x-request-id"] == made["x-ms-request-id"]
    assert "x-ms-client-request-id" not in made
    given = server.score({}, headers={"x-request-id": "r", "x-ms-client-request-id": "c"}).headers
    assert (given["x-request-id"], given["x-ms-request-id"], given["x-ms-client-request-id"]) == (
        "r",
        "c",
        "c",
    )
    long = server.score({}, headers={"x-ms-client-request-id": "c" * 101})
    assert (long.status, long.json["message"]) == (
        431,
        "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters",
    )


def test_paths_and_methods(server: Scoring) -> None:
    assert server.ask("GET", "/").body == b"Healthy"
    assert server.ask("PUT", "/score", {}).status == 405
    assert server.ask("OPTIONS", "/score").status == 200
    assert server.ask("GET", "/nowhere").status == 404
    assert server.score(b"\xff\xfe").status == 400


def test_a_generator_is_streamed(server: Scoring) -> None:
    reply = server.score({"do": "stream"})
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.body == b"part 0|part 1|part 2|"


def test_a_stream_that_fails_has_no_end(server: Scoring) -> None:
    with pytest.raises(http.client.IncompleteRead):
        server.score({"do": "half"})
    assert "RuntimeError: in the middle" in server.log


def test_pipelined_requests_are_answered_in_order(server: Scoring) -> None:
    bodies = [json.dumps({"n": n}).encode() for n in range(20)]
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(b"".join(head % (len(body), body) for body in bodies))
        with sock.makefile("rb") as file:
            assert [json.loads(next_body(file))["got"]["n"] for _ in bodies] == list(range(20))


def next_body(file: BinaryIO) -> bytes:
    head = b"".join(iter(file.readline, b"\r\n")) + b"\r\n"
    headers = http.client.parse_headers(BytesIO(head.partition(b"\r\n")[2]))
    return file.read(int(headers["Content-Length"]))


def test_health_is_answered_while_run_runs(server: Scoring, tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    caller = threading.Thread(
        target=server.score, args=({"do": "wait", "go": str(go), "started": str(started)},), daemon=True
    )
    caller.start()
    while not started.exists():
        time.sleep(0.005)
    assert server.ask("GET", "/").body == b"Healthy"
    assert server.ask("GET", "/v2/health/ready").json == {"ready": True}
    assert caller.is_alive()
    go.touch()
    caller.join(60)


def test_a_worker_that_dies_answers_its_request_and_spares_idle_connections(server: Scoring) -> None:
    idle = server.connect()
    idle.request("POST", "/score", b"{}")
    before = json.loads(idle.getresponse().read())["pid"]
    restarts = server.state["restarts"]
    reply = server.score({"do": "segv"})
    assert (reply.status, reply.json["message"]) == (
        502,
        "The worker that had this request ended (signal SIGSEGV).",
    )
    idle.request("POST", "/score", b"{}")
    assert json.loads(idle.getresponse().read())["pid"] != before
    assert server.state["restarts"] == restarts + 1
    idle.close()


def test_a_worker_killed_while_it_runs_is_told_too(server: Scoring, tmp_path: Path) -> None:
    pid = server.score({}).json["pid"]
    started = tmp_path / "started"
    replies = []
    caller = threading.Thread(
        target=lambda: replies.append(server.score({"do": "sleep", "s": 60, "started": str(started)}))
    )
    caller.start()
    while not started.exists():
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    caller.join(60)
    assert replies[0].status == 502
    assert "SIGKILL" in replies[0].json["message"]
    assert server.score({}).status == 200


def test_a_worker_that_hangs_is_ended_with_a_traceback(tmp_path: Path) -> None:
    with scoring(tmp_path, SCRIPT, WORKER_TIMEOUT="2") as server:
        reply = server.score({"do": "sleep", "s": 60, "started": str(tmp_path / "s")})
        assert reply.status == 504
        assert "no sign of life for 2 s (WORKER_TIMEOUT)" in reply.json["message"]
        assert "score.py" in server.log.split("Where it hangs", 1)[1]
        assert server.score({}).status == 200


def test_a_run_that_takes_too_long_is_stopped_alone(tmp_path: Path) -> None:
    with scoring(tmp_path, SCRIPT, SCORING_TIMEOUT_MS="1000") as server:
        pid = server.score({}).json["pid"]
        reply = server.score({"do": "sleep", "s": 60, "started": str(tmp_path / "s")})
        assert (reply.status, reply.json["message"]) == (500, "Scoring timeout after 1000 ms")
        assert server.score({}).json["pid"] == pid


def test_a_drain_finishes_what_runs(tmp_path: Path) -> None:
    with scoring(tmp_path, SCRIPT) as server:
        started = tmp_path / "started"
        replies = []
        caller = threading.Thread(
            target=lambda: replies.append(server.score({"do": "sleep", "s": 0.5, "started": str(started)}))
        )
        caller.start()
        while not started.exists():
            time.sleep(0.005)
        assert server.end() == 0
        caller.join(60)
        assert replies[0].status == 200
        assert server.state["state"] == "draining"


@pytest.mark.parametrize(
    ("script", "stage", "kind", "said"),
    [
        ("import nothing_of_this_name\n", "import", "ModuleNotFoundError", "nothing_of_this_name"),
        ("def init():\n    1 / 0\ndef run(x):\n    pass\n", "init", "ZeroDivisionError", "division by zero"),
        ("def init():\n    raise SystemExit(3)\ndef run(x): pass\n", "init", "SystemExit", "3"),
        ("def init(): pass\n", "config", "NotUsable", "does not define run()"),
        ("def init(): pass\ndef run(): pass\n", "config", "NotUsable", "argument for input data"),
        (
            "import os\ndef init():\n    os.abort()\ndef run(x): pass\n",
            "init",
            "WorkerEnded",
            "SIGABRT",
        ),
    ],
)
def test_a_failing_start_is_told(tmp_path: Path, script: str, stage: str, kind: str, said: str) -> None:
    with scoring(tmp_path, script, ready=False) as server:
        assert server.process.wait(30) == 3
        error = server.state["error"]
        assert (server.state["state"], error["stage"], error["type"]) == ("failed", stage, kind)
        assert said in error["message"]
        if stage in ("import", "init") and kind != "WorkerEnded":
            assert "score.py" in error["traceback"]
            assert "score.py" in server.log


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    with scoring(tmp_path, SCRIPT, ready=False, WORKER_COUNT="many") as server:
        assert server.process.wait(30) == 3
        assert server.state["error"]["message"] == "WORKER_COUNT='many' is not a whole number from 1 to 256."


def test_before_init_is_done_callers_are_told(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"import os, time\ndef init():\n    while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    with scoring(tmp_path, script + "def run(x): return x\n", ready=False) as server:
        server.wait_until("starting")
        assert server.score({}).headers["x-tidemill-not-ready"] == "1"
        for reply in (server.ask("GET", "/"), server.score({})):
            assert (reply.status, reply.json["message"]) == (
                503,
                "The server is not ready yet: init() has not finished.",
            )
        go.touch()
        server.wait_until("ready")
        assert server.score({}).status == 200


def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    with scoring(tmp_path, SCRIPT) as server:
        pid = server.score({}).json["pid"]
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not alive(pid), what="the end of its worker")


def test_a_state_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    place = str(tmp_path / "nowhere" / "state.json")
    with scoring(tmp_path, SCRIPT, ready=False, TIDEMILL_SERVING_STATE=place) as server:
        end = time.monotonic() + 30
        while "is ready" not in server.log:
            assert time.monotonic() < end, server.log
            time.sleep(0.01)
        assert f"TIDEMILL_SERVING_STATE={place}: No such file or directory" in server.log
        assert server.end() == 0


MEETING = """
import json, os, time
def init(): pass
def run(raw):
    place = json.loads(raw)["at"]
    os.makedirs(place, exist_ok=True)
    open(os.path.join(place, str(os.getpid())), "w").close()
    while len(os.listdir(place)) < 2:
        time.sleep(0.002)
    time.sleep(0.02)  # whoever comes last is not brisk either
    return os.getpid()
"""


def test_slow_requests_on_kept_connections_go_to_workers_that_are_free(tmp_path: Path) -> None:
    """A gateway keeps its connections: which worker has one must not decide how long a request waits.

    Two requests are answered only when both run at once, whichever two connections they came by.
    """
    with scoring(tmp_path, MEETING, WORKER_COUNT="2", SCORING_TIMEOUT_MS="60000") as server:
        while server.state["workers"] < 2:
            time.sleep(0.01)
        connections = [server.connect() for _ in range(4)]
        for number, chosen in enumerate(("01", "23", "03", "12", "02", "13", "0123")):
            asked = [connections[int(n)] for n in chosen]
            body = json.dumps({"at": str(tmp_path / f"meeting{number}")})
            for connection in asked:
                connection.request("POST", "/score", body)
            replies = [connection.getresponse() for connection in asked]
            found = [int(reply.read()) for reply in replies]
            assert [reply.status for reply in replies] == [200] * len(asked)
            assert len(set(found)) == 2
        for connection in connections:
            connection.close()
