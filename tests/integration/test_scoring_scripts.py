"""Entry scripts as they are written for Azure: raw requests, schemas, async and streaming, batches, CORS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scoringserver import Scoring, scoring

ROOT = Path(__file__).resolve().parents[2]


def azures() -> str:
    """The Python of an environment with Azure's own packages."""
    found = ROOT / ".venv-azmlserver" / "bin" / "python"
    if not found.exists():
        message = f"Azure's inference server is not installed at {found}; run `make azmlserver`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return str(found)


RAW = """
import json
from {package} import rawhttp
from {response} import AMLResponse

def init(): pass

@rawhttp
def run(request):
    kind = request.args.get("kind", "echo")
    if request.method == "GET":
        headers = {{"X-Kept": "a, b", "Content-Type": "text/x"}}
        return AMLResponse(json.dumps(dict(request.args)), 200, headers)
    if kind == "json":
        return AMLResponse({{"got": request.get_json()}}, 201, json_str=True)
    if kind == "empty":
        return AMLResponse("", 204)
    if kind == "odd":
        return AMLResponse("", 99)
    if kind == "fails":
        return AMLResponse("no", 503, {{}})
    if kind == "file":
        file = request.files["f"]
        return {{"name": file.filename, "size": len(file.read()), "a": request.form["a"]}}
    if kind == "stream":
        return AMLResponse((part for part in ("one", "two")), 200, {{"Content-Type": "text/event-stream"}})
    return AMLResponse(request.get_data(False)[::-1], 200, {{"X-Type": request.headers["content-type"]}})
"""
CONTRIB = {
    "package": "azureml.contrib.services.aml_request",
    "response": "azureml.contrib.services.aml_response",
}
SERVER = {
    "package": "azureml_inference_server_http.api.aml_request",
    "response": "azureml_inference_server_http.api.aml_response",
}


@pytest.fixture(scope="module", params=["ours, old names", "ours", "azure's"])
def raw(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scoring]:
    names = CONTRIB if request.param == "ours, old names" else SERVER
    python = azures() if request.param == "azure's" else sys.executable
    with scoring(tmp_path_factory.mktemp("raw"), RAW.format(**names), python=python) as server:
        yield server


def test_a_raw_request_and_its_response_are_passed_as_they_are(raw: Scoring) -> None:
    reply = raw.score(b"\x00\xff\x01", headers={"Content-Type": "image/png"})
    assert (reply.status, reply.body) == (200, b"\x01\xff\x00")
    assert reply.headers["x-type"] == "image/png"
    assert reply.headers["content-type"].startswith("text/html")
    got = raw.ask("GET", "/score?a=1&b=x")
    assert (json.loads(got.body), got.headers["content-type"]) == ({"a": "1", "b": "x"}, "text/x")
    assert got.headers["x-kept"] == "a, b"
    made = raw.ask("POST", "/score?kind=json", {"x": 1})
    assert (made.status, made.json, made.headers["content-type"]) == (
        201,
        {"got": {"x": 1}},
        "application/json",
    )
    failed = raw.ask("POST", "/score?kind=fails", {})
    assert (failed.status, failed.body, failed.headers["x-ms-run-function-failed"]) == (503, b"no", "True")


def test_a_response_without_a_body_and_one_that_is_none(raw: Scoring) -> None:
    empty = raw.ask("POST", "/score?kind=empty", {})
    assert (empty.status, empty.body, empty.headers.get("content-length")) == (204, b"", None)
    assert raw.ask("POST", "/score?kind=odd", {}).status == 500


def test_a_form_with_a_file_is_read(raw: Scoring) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nvalue\r\n'
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="x.bin"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\x00\x01\x02\r\n--b--\r\n"
    )
    reply = raw.ask("POST", "/score?kind=file", body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert reply.json == {"name": "x.bin", "size": 3, "a": "value"}


def test_a_raw_response_may_be_a_stream(raw: Scoring) -> None:
    reply = raw.ask("POST", "/score?kind=stream", {})
    assert (reply.body, reply.headers["transfer-encoding"]) == (b"onetwo", "chunked")
    assert reply.headers["content-type"].startswith("text/event-stream")


SCHEMA = """
import numpy as np
from inference_schema.schema_decorators import input_schema, output_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType

def init(): pass

@input_schema("data", NumpyParameterType(np.array([[1.0, 2.0]])))
@input_schema("factor", StandardPythonParameterType(2))
@output_schema(StandardPythonParameterType([1.0]))
def run(data, factor=3):
    assert isinstance(data, np.ndarray)
    return (data.sum(axis=1) * factor).tolist()
"""


def test_schemas_make_parameters_and_swagger(tmp_path: Path) -> None:
    with scoring(tmp_path, SCHEMA, python=azures(), SERVICE_NAME="digits") as server:
        assert server.score({"data": [[1, 2], [3, 4]], "factor": 10}).json == [30.0, 70.0]
        lacks = server.score({"factor": 10})
        assert (lacks.status, lacks.json["message"]) == (
            400,
            "A value is not provided for the 'data' parameter.",
        )
        assert server.score([1]).json["message"] == "POST body should be a JSON dictionary."
        assert server.score(b"").json["message"].startswith("POST body is empty")
        assert server.score(b"{").status == 400
        assert server.score({"data": []}, headers={"Content-Type": "text/plain"}).status == 415
        two = server.ask("GET", "/swagger.json").json
        assert (two["swagger"], two["info"]["title"]) == ("2.0", "digits")
        assert two["definitions"]["ServiceInput"]["example"] == {"data": [[1.0, 2.0]], "factor": 2}
        three = server.ask("GET", "/swagger.json?version=3").json
        assert three["openapi"] == "3.0.3"
        assert "data" in three["components"]["schemas"]["ServiceInput"]["properties"]
        assert server.ask("GET", "/swagger.json?version=3.1").json["openapi"] == "3.1.0"
        unknown = server.ask("GET", "/swagger.json?version=9")
        assert (unknown.status, unknown.json["message"]) == (
            404,
            "Swagger version [9] is not valid. Supported versions: [2, 3, 3.1].",
        )


def test_swagger_is_azure_s(tmp_path: Path) -> None:
    """The documents of Azure's own server for the same script, byte for byte as JSON."""
    python = azures()
    with scoring(tmp_path, SCHEMA, python=python) as server:
        for version in ("2", "3"):
            code = (
                "import json, sys; from azureml_inference_server_http import constants;"
                f"print(open(constants.SERVER_ROOT + '/swagger{version}_template.json').read())"
            )

            template = json.loads(
                subprocess.run([python, "-c", code], capture_output=True, check=True).stdout
            )
            ours = server.ask("GET", f"/swagger.json?version={version}").json
            text = json.dumps(template).replace("$PATH_PREFIX$", "").replace("$SERVICE_NAME$", "ML service")
            theirs = json.loads(text.replace("$SERVICE_VERSION$", "1.0"))
            schemas = theirs["definitions"] if version == "2" else theirs["components"]["schemas"]
            mine = ours["definitions"] if version == "2" else ours["components"]["schemas"]
            schemas.update(ServiceInput=mine["ServiceInput"], ServiceOutput=mine["ServiceOutput"])
            assert ours == theirs


ASYNC = """
import asyncio, json

here = 0
def init(): pass

async def run(raw_data, request_headers):
    data = json.loads(raw_data)
    if "fail" in data:
        raise ValueError("asynchronous words")
    if "stream" in data:
        return parts(data["stream"])
    if "meet" in data:
        global here
        here += 1
        while here < data["meet"]:
            await asyncio.sleep(0.01)
    await asyncio.sleep(data.get("s", 0))
    return {"got": data, "agent": request_headers.get("User-Agent")}

async def parts(count):
    for number in range(count):
        await asyncio.sleep(0.01)
        yield f"data: {number}\\n\\n"
"""


@pytest.fixture(scope="module")
def asynchronous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scoring]:
    with scoring(tmp_path_factory.mktemp("async"), ASYNC) as server:
        yield server


def test_async_requests_run_at_once(asynchronous: Scoring) -> None:
    """None is answered before all ten are there."""
    replies: list[Any] = []
    callers = [
        threading.Thread(target=lambda: replies.append(asynchronous.score({"meet": 10}))) for _ in range(10)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert [reply.status for reply in replies] == [200] * 10


def test_async_headers_failures_and_streams(asynchronous: Scoring) -> None:
    assert asynchronous.score({}, headers={"User-Agent": "me"}).json["agent"] == "me"
    assert asynchronous.score({"fail": 1}).status == 500
    assert "ValueError: asynchronous words" in asynchronous.log
    assert asynchronous.score({"stream": 3}).body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_an_async_run_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with scoring(tmp_path, ASYNC, SCORING_TIMEOUT_MS="300") as server:
        late = server.score({"s": 60})
        assert (late.status, late.json["message"]) == (500, "Scoring timeout after 300 ms")


def test_a_stream_arrives_piece_by_piece(asynchronous: Scoring) -> None:
    connection = asynchronous.connect()
    connection.request("POST", "/score", json.dumps({"stream": 500}))
    reply = connection.getresponse()
    assert reply.read(9) == b"data: 0\n\n"
    assert asynchronous.score({}).status == 200  # others are answered meanwhile
    connection.close()  # and a caller that goes ends it
    assert asynchronous.score({}).status == 200


BATCH = """
import json, time

def init(): pass

def run(raw_data):
    data = json.loads(raw_data)
    if data["n"] < 0:
        raise ValueError("negative: %s" % data["n"])
    return {"n": data["n"], "of": 1}

def run_batch(raws):
    time.sleep(0.05)
    numbers = [json.loads(raw)["n"] for raw in raws]
    if any(n < 0 for n in numbers):
        raise RuntimeError("one of them is negative")
    return [ValueError("seven") if n == 7 else {"n": n, "of": len(raws)} for n in numbers]
"""


def ask_all(server: Scoring, numbers: list[int]) -> dict[int, Any]:
    replies: dict[int, Any] = {}
    gate = threading.Barrier(len(numbers))

    def ask(number: int) -> None:
        gate.wait(60)
        replies[number] = server.score({"n": number})

    callers = [threading.Thread(target=ask, args=(number,)) for number in numbers]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    return replies


def test_run_batch_gets_those_that_wait_and_each_gets_its_own(tmp_path: Path) -> None:
    with scoring(tmp_path, BATCH, TIDEMILL_SERVING_BATCH_SIZE="8") as server:
        assert server.score({"n": 1}).json == {"n": 1, "of": 1}
        replies = ask_all(server, [n for n in range(20) if n != 7])
        assert all(reply.json["n"] == number for number, reply in replies.items())
        assert 1 < max(reply.json["of"] for reply in replies.values()) <= 8


def test_a_bad_one_of_a_batch_fails_alone(tmp_path: Path) -> None:
    batches = {"TIDEMILL_SERVING_BATCH_SIZE": "4", "TIDEMILL_SERVING_BATCH_WAIT_MS": "30000"}  # all of them
    with scoring(tmp_path, BATCH, **batches) as server:
        replies = ask_all(server, [1, 2, 7, 8])
        assert {number: reply.status for number, reply in replies.items()} == {1: 200, 2: 200, 7: 500, 8: 200}
        assert replies[1].json["of"] == 4
        replies = ask_all(server, [1, -2, 3, 4])
        statuses = {number: reply.status for number, reply in replies.items()}
        assert statuses == {1: 200, -2: 500, 3: 200, 4: 200}
        assert "ValueError: negative: -2" in server.log
        assert "a batch of 4 requests failed (RuntimeError: one of them is negative)" in server.log


def test_a_wait_is_a_bound(tmp_path: Path) -> None:
    with scoring(tmp_path, BATCH, TIDEMILL_SERVING_BATCH_WAIT_MS="300") as server:
        started = time.monotonic()
        assert server.score({"n": 1}).json["of"] == 1
        assert 0.25 < time.monotonic() - started < 25


def test_run_batch_that_does_not_fit_run_is_refused(tmp_path: Path) -> None:
    script = "def init(): pass\nasync def run(x): pass\ndef run_batch(xs): return xs\n"
    with scoring(tmp_path, script, ready=False) as server:
        assert server.process.wait(30) == 3
        assert "run_batch() needs a run() that is synchronous" in server.state["error"]["message"]


def test_cors(tmp_path: Path) -> None:
    script = "def init(): pass\ndef run(x): return x\n"
    with scoring(tmp_path, script, AML_CORS_ORIGINS="https://a.example, b.example") as server:
        for origin in ("https://a.example", "https://b.example"):
            reply = server.score({}, headers={"Origin": origin})
            assert reply.headers["access-control-allow-origin"] == origin
        assert (
            "access-control-allow-origin"
            not in server.score({}, headers={"Origin": "https://c.example"}).headers
        )
        asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        reply = server.ask("OPTIONS", "/score", headers={**asked, "Access-Control-Request-Headers": "x-a"})
        assert (reply.status, reply.headers["access-control-allow-methods"]) == (200, "GET, POST")
        assert reply.headers["access-control-allow-headers"] == "x-a"


def test_a_script_in_a_folder_with_its_own_modules(tmp_path: Path) -> None:
    """AML_APP_ROOT and AZUREML_SOURCE_DIRECTORY are on the path; modules named as ours are the user's."""
    (tmp_path / "src").mkdir()
    (tmp_path / "settings.py").write_text("WHO = 'the root'\n")
    (tmp_path / "src" / "http_helpers.py").write_text(
        "from http import HTTPStatus\nWHO = HTTPStatus.OK.phrase\n"
    )
    (tmp_path / "src" / "entry.py").write_text(
        "import http_helpers, settings, pickle\nclass Thing: pass\n"
        "def init(): pickle.loads(pickle.dumps(Thing()))\n"
        "def run(x): return [settings.WHO, http_helpers.WHO]\n"
    )
    variables = {"AZUREML_ENTRY_SCRIPT": "src/entry.py", "AZUREML_SOURCE_DIRECTORY": "src"}
    with scoring(tmp_path, **variables) as server:
        assert server.score({}).json == ["the root", "OK"]


def test_a_warm_up_runs_before_ready_and_its_failure_is_told(tmp_path: Path) -> None:
    script = (
        "seen = []\ndef init(): pass\ndef run(x):\n    seen.append(x)\n    return [seen[0], 1 / len(x)]\n"
    )
    sample = tmp_path / "sample.json"
    sample.write_text('"warm"')
    with scoring(tmp_path / "a", script, TIDEMILL_SERVING_WARMUP=str(sample)) as server:
        assert server.score(b"asked").json == ['"warm"', 0.2]
    sample.write_text("")
    with scoring(tmp_path / "b", script, ready=False, TIDEMILL_SERVING_WARMUP=str(sample)) as server:
        assert server.process.wait(30) == 3
        assert (server.state["error"]["stage"], server.state["error"]["type"]) == (
            "warmup",
            "ZeroDivisionError",
        )


def test_no_script_and_no_model(tmp_path: Path) -> None:
    with scoring(tmp_path, ready=False) as server:
        assert server.process.wait(30) == 3
        assert "There is nothing to serve" in server.state["error"]["message"]


def test_a_large_answer_reaches_a_slow_reader(tmp_path: Path) -> None:
    script = "def init(): pass\ndef run(x): return 'y' * 20_000_000\n"
    with scoring(tmp_path, script) as server:
        connection = server.connect()
        connection.request("POST", "/score", b"{}")
        reply = connection.getresponse()
        assert reply.read(1) == b'"'
        assert server.score(b"{}").status == 200
        assert len(reply.read()) == 20_000_001
        connection.request("POST", "/score", b"{}")
        with connection.getresponse() as again:
            assert len(again.read()) == 20_000_002
        connection.close()
