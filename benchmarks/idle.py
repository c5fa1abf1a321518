"""What Tidemill costs while nothing happens, and how soon it is there.

    python -m benchmarks.idle [--seconds 20] [--rounds 3]

Ready: from the start of `up` (a new process of Python) to the first answer of the API, in a fresh home and in
one that was used. Memory: PSS of both processes, from /proc/PID/smaps_rollup. CPU: of both over idle seconds.
The floor of the starts is `python -c pass` in the same run.
"""

from __future__ import annotations

import argparse
import http.client
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import Server, Table, attached, process_cpu_seconds, running_server
from tidemill.server import launch

READY_S, PSS_MIB, IDLE_SHARE, CLI_S = 1.0, 100.0, 0.005, 0.150


def first_answer(home: Path) -> float:
    """Seconds from the start of `up` until an ARM read is answered."""
    started = time.perf_counter()
    launch.up(home, https_port=0, http_port=0, data_port=0, detach=True)
    server = attached(home)
    connection = http.client.HTTPConnection(server.netloc)
    connection.request("GET", f"{server.workspace}/jobs", headers={"Authorization": f"Bearer {server.token}"})
    if connection.getresponse().status != 200:
        raise SystemExit("The first read was refused.")
    taken = time.perf_counter() - started
    connection.close()
    return taken


def starts(rounds: int) -> tuple[list[float], list[float]]:
    """-> (seconds in fresh homes, seconds in homes that were used)."""
    fresh, again = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
            home = Path(folder) / "home"
            for taken in (fresh, again):
                try:
                    taken.append(first_answer(home))
                finally:
                    launch.down(home)
    return fresh, again


def pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/{pid}/smaps_rollup has no Pss.")


def idle_share(server: Server, seconds: float) -> float:
    """CPU of both processes, as a share of one core."""
    pids = server.state["pid"], server.state["data_pid"]
    before = sum(map(process_cpu_seconds, pids))
    time.sleep(seconds)
    return (sum(map(process_cpu_seconds, pids)) - before) / seconds


def command_cpu(argv: list[str], home: Path, rounds: int) -> float:
    """CPU seconds of a command and its children, median."""
    taken: list[float] = []
    environment = {**os.environ, "TIDEMILL_HOME": str(home)}
    for _ in range(rounds):
        before = _children()
        subprocess.run(
            argv,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=30,
        )
        taken.append(_children() - before)
    return statistics.median(taken)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks idle")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    python = command_cpu([sys.executable, "-c", "pass"], Path("/"), options.rounds)
    table = Table("Idle", ("what", "figure", "floor", "ratio", "target", "met"))

    def seconds(name: str, value: float, limit: float) -> None:
        floor = f"{python * 1e3:.0f} ms (python)"
        table.add(
            name, f"{value * 1e3:.0f} ms", floor, value / python, f"< {limit * 1e3:.0f} ms", value < limit
        )

    fresh, again = starts(options.rounds)
    seconds("ready, fresh home", statistics.median(fresh), READY_S)
    seconds("ready, restart", statistics.median(again), READY_S)
    tidemill = str(Path(sys.executable).with_name("tidemill"))
    with running_server() as server:
        share = idle_share(server, options.seconds)
        control, data = pss_mib(server.state["pid"]), pss_mib(server.state["data_pid"])
        total = control + data
        table.add(
            "memory (PSS), control + data",
            f"{control:.0f} + {data:.0f} MiB",
            None,
            None,
            f"< {PSS_MIB:.0f} MiB",
            total < PSS_MIB,
        )
        table.add(
            f"CPU over {options.seconds:.0f} s idle",
            f"{share:.2%} of a core" if share else f"< {0.01 / options.seconds:.2%} of a core",
            None,
            None,
            f"< {IDLE_SHARE:.1%}",
            share < IDLE_SHARE,
        )
        seconds("tidemill --help, CPU", command_cpu([tidemill, "--help"], server.home, options.rounds), CLI_S)
        seconds(
            "tidemill job list, CPU",
            command_cpu([tidemill, "job", "list"], server.home, options.rounds),
            CLI_S,
        )
    table.show()
    return table


if __name__ == "__main__":
    main()
