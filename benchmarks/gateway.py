"""The gateway against nginx, in one run: both check a key, split 90/10 between the same two backends, keep
connections, on one core; the backends (nginx, too) and the client share the other.

    python -m benchmarks.gateway [--seconds 2] [--rounds 3]

The gateway writes its access log, nginx none. It reads a head that a connection sends again but once; so one
row has heads that differ. Needs Debian's nginx-light and wrk. Requests per CPU second are
those of the proxy's own process; the hop is what it adds to asking the backend directly. Best of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Table, process_cpu_seconds
from benchmarks.gateway_serve import KEY, PATH

SHARE, P50_MS, P99_MS = 0.7, 0.15, 0.6
CLIENTS = (16, 64)
BODY = json.dumps({"data": [[float(n * 7 % 17) for n in range(64)]]})
_CLIENT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
wrk.body = '{body}'
{each}
done = function(summary, latency, requests)
  local e = summary.errors
  local form = '\\nJSON{{"requests": %d, "us": %d, "p50": %f, "p99": %f, "bad": %d}}\\n'
  io.write(string.format(form, summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.status + e.connect + e.read + e.timeout))
end
"""
_IDS = """
local count = 0
request = function()
  count = count + 1
  wrk.headers["x-ms-client-request-id"] = string.format("%012d", count)
  return wrk.format()
end
"""
_BACKENDS = """
http {{ access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
  server {{ listen 127.0.0.1:{blue}; location / {{ default_type application/json; return 200 "[1]"; }} }}
  server {{ listen 127.0.0.1:{green}; location / {{ default_type application/json; return 200 "[1]"; }} }} }}
"""
_PROXY = """
http {{ access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
  map $http_authorization $ok {{ default 0; "Bearer {key}" 1; }}
  split_clients $request_id $up {{ 90% blue; * green; }}
  upstream blue {{ server 127.0.0.1:{blue}; keepalive 128; keepalive_requests 1000000000; }}
  upstream green {{ server 127.0.0.1:{green}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}; if ($ok = 0) {{ return 401; }}
    location / {{ proxy_pass http://$up; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
"""


@dataclass(frozen=True, slots=True)
class Figure:
    rate: float  # requests a second
    per_cpu: float  # requests a second of the proxy's processor time
    p50: float  # ms
    p99: float


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks gateway")
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    for tool, package in (("nginx", "nginx-light"), ("wrk", "wrk")):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not here: apt-get install {package}")
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder, ExitStack() as stack:
        bench = _Bench(Path(folder), stack, options.seconds)
        found: dict[tuple[str, int], list[Figure]] = {}
        for _ in range(options.rounds):
            for clients in CLIENTS:
                ids = ("nginx ids", "gateway ids", "floor ids") if clients == CLIENTS[0] else ()
                for name in ("direct", "nginx", "gateway", "floor", *ids):
                    found.setdefault((name, clients), []).append(bench.measure(name, clients))
    return _table({key: _best(figures) for key, figures in found.items()}, options.rounds)


def _best(figures: list[Figure]) -> Figure:
    return Figure(
        max(one.rate for one in figures),
        max(one.per_cpu for one in figures),
        min(one.p50 for one in figures),
        min(one.p99 for one in figures),
    )


def _table(best: dict[tuple[str, int], Figure], rounds: int) -> Table:
    table = Table(
        f"Gateway: a key, a 90/10 split, kept connections; best of {rounds}",
        ("what", "gateway", "nginx", "ratio", "target", "met"),
    )
    for clients in CLIENTS:
        _add_costs(table, f"{clients} clients", best["gateway", clients], best["nginx", clients])
        _add_floor(table, f"{clients} clients", best["floor", clients], best["nginx", clients])
        _add_hops(table, clients, *(best[name, clients] for name in ("gateway", "nginx", "direct")))
    few = CLIENTS[0]
    _add_costs(table, f"{few} clients, heads differ", best["gateway ids", few], best["nginx ids", few])
    _add_floor(table, f"{few} clients, heads differ", best["floor ids", few], best["nginx ids", few])
    table.show()
    return table


def _add_floor(table: Table, what: str, floor: Figure, theirs: Figure) -> None:
    """What a proxy on uvloop that does nothing at all would reach."""
    figures = f"{floor.per_cpu:,.0f}", f"{theirs.per_cpu:,.0f}"
    table.add(f"the same of a bare uvloop relay, {what}", *figures, floor.per_cpu / theirs.per_cpu, "", None)


def _add_costs(table: Table, what: str, ours: Figure, theirs: Figure) -> None:
    ratio = ours.per_cpu / theirs.per_cpu
    figures = f"{ours.per_cpu:,.0f}", f"{theirs.per_cpu:,.0f}"
    table.add(f"requests per CPU second, {what}", *figures, ratio, f">= {SHARE:.2f}x", ratio >= SHARE)
    figures = f"{ours.rate:,.0f}", f"{theirs.rate:,.0f}"
    table.add(f"requests a second, {what}", *figures, ours.rate / theirs.rate, "", None)


def _add_hops(table: Table, clients: int, ours: Figure, theirs: Figure, direct: Figure) -> None:
    aimed = clients == CLIENTS[0]
    for share, mine, other, aim in (
        ("p50", ours.p50 - direct.p50, theirs.p50 - direct.p50, P50_MS),
        ("p99", ours.p99 - direct.p99, theirs.p99 - direct.p99, P99_MS),
    ):
        target, met = (f"<= {aim} ms", mine <= aim) if aimed else ("", None)
        table.add(f"hop, {share}, {clients} clients", f"{mine:.2f} ms", f"{other:.2f} ms", None, target, met)


class _Bench:
    """Backends and proxies, started once; they take turns."""

    def __init__(self, folder: Path, stack: ExitStack, seconds: int) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self._ours, self._others = str(cores[0]), str(cores[-1])
        self._folder, self._seconds = folder, seconds
        blue, green, port, gateway, floor = _free_ports(5)
        ports = {"blue": blue, "green": green, "port": port, "key": KEY}
        stack.enter_context(self._nginx("backends", _BACKENDS.format(**ports), self._others))
        nginx = stack.enter_context(self._nginx("proxy", _PROXY.format(**ports), self._ours))
        argv = [sys.executable, "-m", "benchmarks.gateway_serve", str(gateway), str(blue), str(green)]
        ours = stack.enter_context(_running([*argv, str(folder / "access.log")], self._ours))
        argv = [sys.executable, "-m", "benchmarks.gateway_floor", str(floor), str(blue)]
        bare = stack.enter_context(_running(argv, self._ours))
        self._targets = {
            "floor": (f"http://127.0.0.1:{floor}/score", bare),
            "direct": (f"http://127.0.0.1:{blue}/score", 0),
            "nginx": (f"http://127.0.0.1:{port}/score", nginx),
            "gateway": (f"http://127.0.0.1:{gateway}{PATH}", ours),
        }
        for name, each in (("same", ""), ("ids", _IDS)):
            (folder / f"{name}.lua").write_text(_CLIENT.format(key=KEY, body=BODY, each=each))
        for url, _ in self._targets.values():
            _wait_for(url)

    @contextmanager
    def _nginx(self, name: str, conf: str, core: str) -> Iterator[int]:
        file = self._folder / f"{name}.conf"
        head = (
            f"worker_processes 1; master_process off; daemon off; pid {file}.pid; error_log {file}.err warn;"
        )
        file.write_text(f"{head} error_log {file}.err warn;\nevents {{ worker_connections 4096; }}\n{conf}")
        with _running(["nginx", "-p", str(self._folder), "-e", f"{file}.err", "-c", str(file)], core) as pid:
            yield pid

    def measure(self, name: str, clients: int) -> Figure:
        target, _, kind = name.partition(" ")
        url, pid = self._targets[target]
        script = str(self._folder / f"{kind or 'same'}.lua")
        before = process_cpu_seconds(pid) if pid else 0.0
        words = ["wrk", "-t1", f"-c{clients}", f"-d{self._seconds}s", "-s", script, url]
        out = subprocess.run(
            ["taskset", "-c", self._others, *words],
            capture_output=True,
            text=True,
            timeout=self._seconds + 60,
            check=True,
        ).stdout
        used = process_cpu_seconds(pid) - before if pid else 0.0
        said = json.loads(out.rpartition("\nJSON")[2])
        if said["bad"]:
            raise SystemExit(f"{name}: {said['bad']} of {said['requests']} requests failed")
        per_cpu = said["requests"] / used if used else 0.0
        return Figure(said["requests"] / said["us"] * 1e6, per_cpu, said["p50"] / 1e3, said["p99"] / 1e3)


@contextmanager
def _running(argv: list[str], core: str) -> Iterator[int]:
    process = subprocess.Popen(["taskset", "-c", core, *argv], start_new_session=True)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _wait_for(url: str) -> None:
    """Until it answers right."""
    request = urllib.request.Request(url, BODY.encode(), {"Authorization": f"Bearer {KEY}"})
    until = time.monotonic() + 15
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                assert json.loads(answer.read()) == [1]
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    main()
