"""The scoring server against the physical limit, and against Azure's own server, in one run.

    python -m benchmarks.serving [--seconds 2] [--rounds 3] [--connections 16,64] [--only WORD]

One scikit-learn model (logistic regression on the digits, 64 numbers a row), one worker, wrk on the
loopback. The physical limit of a request is what a bare C server needs (floor.c, of the same round) and the
work itself: JSON in, predict, JSON out, timed in a process of its own. "of limit" is requests per CPU
second of the server's whole process tree over that; joining requests beats it. The limit's JSON is orjson's,
the fastest there is; "own JSON" is over the limit with the module that the script itself uses. Noise only
slows a run, so all figures, those of the limit too, are the best of the rounds. Needs wrk, a C compiler and
`make azmlserver`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tidemill.serving.scoring as package
from benchmarks.common import Table

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-azmlserver" / "bin" / "python"
MAIN = Path(package.__file__).with_name("main.py")
READY_S = 60.0

MAKE = """
import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
x, y = load_digits(return_X_y=True)
joblib.dump(LogisticRegression(max_iter=2000).fit(x, y), "model.joblib")
"""
SCRIPT = """
import {json} as json, joblib, numpy, os
def init():
    global model
    model = joblib.load(os.environ["BENCH_MODEL"])
def run(raw_data):
    return model.predict(numpy.asarray(json.loads(raw_data)["data"])).tolist()
"""
BATCH = """
def run_batch(raws):
    parts = [json.loads(raw)["data"] for raw in raws]
    results = model.predict(numpy.asarray([row for part in parts for row in part])).tolist()
    found, at = [], 0
    for part in parts:
        found.append(results[at : at + len(part)])
        at += len(part)
    return found
"""
WORK = """
import joblib, json, numpy, orjson, sys, time
model = joblib.load("model.joblib")
def cost(raw, json):
    best = 1.0
    for turn in range(6):
        count, start = 0, time.process_time()
        while (taken := time.process_time() - start) < 0.15:
            json.dumps(model.predict(numpy.asarray(json.loads(raw)["data"])).tolist())
            count += 1
        if turn:
            best = min(best, taken / count)
    return best
print(*(cost(open(name, "rb").read(), module) for module in (orjson, json) for name in sys.argv[1:]))
"""
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = io.open("{body}", "rb"):read("*a")
function done(summary, latency)
  local failed = summary.errors.status + summary.errors.read + summary.errors.timeout
  io.write(string.format('JSON{{"requests":%d,"us":%d,"bad":%d,"p50":%d,"p99":%d}}\\n', summary.requests,
    summary.duration, failed, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """`{port}` stands in the command and the variables."""

    name: str
    argv: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    targets: Mapping[str, float] = field(default_factory=dict[str, float])  # rows -> of limit
    json: str = "orjson"  # what it reads bodies with


@dataclass(slots=True)
class Best:
    per_cpu: float = 0.0
    rate: float = 0.0
    p50_ms: float = 1e9
    p99_ms: float = 1e9


@dataclass(slots=True)
class Found:
    points: dict[tuple[int, int], Best] = field(
        default_factory=dict[tuple[int, int], Best]
    )  # rows, connections
    ready_s: float = 1e9
    pss_mib: float = 1e9


def subjects(folder: Path) -> list[Subject]:
    python, model = str(PYTHON), {"BENCH_MODEL": str(folder / "model.joblib")}
    ours = [python, str(MAIN)]
    common = {
        "AZUREML_SERVER_PORT": "{port}",
        "AML_APP_ROOT": str(folder),
        "AZUREML_LOG_LEVEL": "INFO",
        **model,
    }

    def script(name: str) -> dict[str, str]:
        return {**common, "AZUREML_ENTRY_SCRIPT": name}

    azures = [python, "-m", "azureml_inference_server_http", "--entry_script", str(folder / "plain.py")]
    bare = {**script("plain.py"), "PYTHONPATH": str(folder / "bare")}
    alone = {**common, "TIDEMILL_SERVING_MODEL": "model.joblib", "TIDEMILL_SERVING_BATCH_SIZE": "1"}
    return [
        Subject("azureml-inference-server-http", [*azures, "--port", "{port}"], model, json="json"),
        Subject("run(), json", ours, script("plain.py"), json="json"),
        Subject("run(), orjson", ours, script("fast.py"), {"1": 0.65, "32": 0.70}),
        Subject("run(), json, without uvloop and orjson", ours, bare, json="json"),
        Subject("model alone, not joined", ours, alone, {"1": 0.65, "32": 0.70}),
        Subject(
            "model alone, joined", ours, {**common, "TIDEMILL_SERVING_MODEL": "model.joblib"}, {"1": 1.3}
        ),
        Subject("run_batch(), orjson", ours, script("batch.py"), {"1": 1.3}),
    ]


def write(folder: Path) -> None:
    subprocess.run([PYTHON, "-c", MAKE], cwd=folder, check=True)
    (folder / "plain.py").write_text(SCRIPT.format(json="json"))
    (folder / "fast.py").write_text(SCRIPT.format(json="orjson"))
    (folder / "batch.py").write_text(SCRIPT.format(json="orjson") + BATCH)
    (folder / "bare").mkdir()
    for name in ("uvloop", "orjson"):
        (folder / "bare" / f"{name}.py").write_text("raise ImportError('not here, for the benchmark')\n")
    row = [float(i * 7 % 17) for i in range(64)]
    for count in (1, 32):
        body = folder / f"rows{count}"
        body.write_text(json.dumps({"data": [row] * count}))
        (folder / f"rows{count}.lua").write_text(LUA.format(body=body))
    subprocess.run(["cc", "-O2", "-o", folder / "floor", Path(__file__).with_name("floor.c")], check=True)


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = children.read_text().split() if children.exists() else []
    return [pid, *(one for child in below for one in tree(int(child)))]


def cpu_seconds(pid: int) -> float:
    total = 0
    for one in tree(pid):
        words = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(words[11]) + int(words[12])
    return total / os.sysconf("SC_CLK_TCK")


def pss_mib(pid: int) -> float:
    text = "".join(Path(f"/proc/{one}/smaps_rollup").read_text() for one in tree(pid))
    return sum(map(int, re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE))) / 1024


def ask(port: int, body: Path) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/score", body.read_bytes(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.loads(reply.read())


@contextmanager
def running(subject: Subject, folder: Path) -> Any:
    """-> (pid, port, seconds to the first answer)."""
    port = _free_port()

    def filled(text: str) -> str:
        return text.replace("{port}", str(port))

    variables = {name: filled(value) for name, value in subject.variables.items()}
    started = time.perf_counter()
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [filled(word) for word in subject.argv],
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        while True:
            try:
                ask(port, folder / "rows1")
                break
            except OSError:
                if child.poll() is not None or time.perf_counter() - started > READY_S:
                    raise SystemExit(f"{subject.name}: {(folder / 'log').read_text()[-2000:]}") from None
                time.sleep(0.01)
        yield child.pid, port, time.perf_counter() - started
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def load(port: int, folder: Path, rows: int, connections: int, seconds: int) -> dict[str, float]:
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    argv += ["-s", str(folder / f"rows{rows}.lua"), f"http://127.0.0.1:{port}/score"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60)
    found = re.search(r"^JSON(.*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"wrk: {done.stdout}{done.stderr}")
    answer = json.loads(found[1])
    if answer["bad"]:
        raise SystemExit(f"{answer['bad']} of {answer['requests']} requests failed.")
    return answer


def measure(best: Best, pid: int, port: int, folder: Path, rows: int, connections: int, seconds: int) -> None:
    before = cpu_seconds(pid)
    answer = load(port, folder, rows, connections, seconds)
    best.per_cpu = max(best.per_cpu, answer["requests"] / max(0.01, cpu_seconds(pid) - before))
    best.rate = max(best.rate, answer["requests"] / answer["us"] * 1e6)
    best.p50_ms = min(best.p50_ms, answer["p50"] / 1000)
    best.p99_ms = min(best.p99_ms, answer["p99"] / 1000)


Limits = dict[tuple[str, int, int], float]
"""CPU seconds of the limit, by JSON's module, rows and connections."""


def rounds(options: argparse.Namespace, folder: Path) -> tuple[Limits, dict[str, Found]]:
    """-> (the limits, what was found)."""
    chosen = [one for one in subjects(folder) if options.only in one.name or one.name.startswith("azureml")]
    points = [(1, connections) for connections in options.connections] + [(32, options.connections[0])]
    found = {subject.name: Found({point: Best() for point in points}) for subject in chosen}
    floors = {point: Best() for point in points}
    sizes = (1, 32)
    work = {(module, rows): 1.0 for module in ("orjson", "json") for rows in sizes}
    names = [str(folder / f"rows{rows}") for rows in sizes]
    for number in range(options.rounds):
        argv = [str(PYTHON), "-c", WORK, *names]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        costs = subprocess.run(
            argv, capture_output=True, check=True, cwd=folder, env=environment
        ).stdout.split()
        work = {key: min(work[key], float(cost)) for key, cost in zip(work, costs, strict=True)}
        floor = subprocess.Popen([folder / "floor"], stdout=subprocess.PIPE)
        try:
            assert floor.stdout is not None
            port = int(floor.stdout.readline())
            for rows, connections in points:
                measure(
                    floors[rows, connections], floor.pid, port, folder, rows, connections, options.seconds
                )
        finally:
            floor.kill()
            floor.wait()
        for subject in chosen[:: -1 if number % 2 else 1]:
            with running(subject, folder) as (pid, port, ready_s):
                one = found[subject.name]
                load(port, folder, 1, 16, 1)  # warm
                for rows, connections in points:
                    if ask(port, folder / f"rows{rows}") != ask(port, folder / "rows1") * rows:
                        raise SystemExit(f"{subject.name} answers wrongly.")
                    measure(
                        one.points[rows, connections], pid, port, folder, rows, connections, options.seconds
                    )
                one.ready_s, one.pss_mib = min(one.ready_s, ready_s), min(one.pss_mib, pss_mib(pid))
    limits = {
        (module, rows, connections): 1 / floors[rows, connections].per_cpu + cost
        for (module, size), cost in work.items()
        for rows, connections in points
        if rows == size
    }
    return limits, found


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks serving")
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--connections", type=lambda text: [int(n) for n in text.split(",")], default=[16, 64]
    )
    parser.add_argument("--only", default="", metavar="WORD", help="subjects whose name has it")
    options = parser.parse_args(argv)
    lacks = [name for name in ("wrk", "cc") if shutil.which(name) is None]
    if lacks or not PYTHON.exists():
        raise SystemExit(f"Needs {' and '.join(lacks) or 'make azmlserver'}.")
    with tempfile.TemporaryDirectory(prefix="tidemill-serving-") as name:
        folder = Path(name)
        write(folder)
        limits, found = rounds(options, folder)
        table = report(subjects(folder), limits, found)
    return table


def report(known: Sequence[Subject], limits: Limits, found: Mapping[str, Found]) -> Table:
    table = Table(
        "Scoring, requests per CPU second of one worker",
        (
            "what",
            "rows",
            "clients",
            "figure",
            "limit",
            "of limit",
            "target",
            "met",
            "own JSON",
            "of Azure's",
            "req/s",
            "p50/p99 ms",
        ),
    )
    azures = next(iter(found.values()))
    for subject in known:
        if subject.name not in found:
            continue
        for (rows, connections), best in found[subject.name].points.items():
            limit = 1 / limits["orjson", rows, connections]
            ratio = best.per_cpu / limit
            target = subject.targets.get(str(rows))
            table.add(
                subject.name,
                str(rows),
                str(connections),
                f"{best.per_cpu:.0f}",
                f"{limit:.0f}",
                ratio,
                "" if target is None else f">= {target:.0%}",
                None if target is None else ratio >= target,
                f"{best.per_cpu * limits[subject.json, rows, connections]:.0%}",
                best.per_cpu / azures.points[rows, connections].per_cpu,
                f"{best.rate:.0f}",
                f"{best.p50_ms:.2f} / {best.p99_ms:.2f}",
            )
    table.show()
    start = Table(
        "Start and memory",
        ("what", "ready s", "of Azure's", "target", "met", "PSS MiB", "of Azure's", "target", "met"),
    )
    for name, one in found.items():
        ready, memory = one.ready_s / azures.ready_s, one.pss_mib / azures.pss_mib
        peer = one is azures
        start.add(
            name,
            f"{one.ready_s:.2f}",
            ready,
            "" if peer else "<= 80%",
            None if peer else ready <= 0.8,
            f"{one.pss_mib:.0f}",
            memory,
            "" if peer else "<= 100%",
            None if peer else memory <= 1,
        )
    start.show()
    table.missed += start.missed
    return table


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
