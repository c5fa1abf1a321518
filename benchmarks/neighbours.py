"""What a job loses while the node next door is attacked: the same fixed work, alone and beside each bomb.

    python -m benchmarks.neighbours [--seconds 4] [--rounds 3]

Two nodes of one cluster share this host. The work is CPU-bound and as long as it takes one core about
`--seconds`; the attacks run on the other node until they are ended there or canceled. The alone and the
attacked measurements take turns. Needs root: without control groups there is nothing to hold a bomb.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time

from benchmarks.common import Client, Table, running_server
from benchmarks.jobs import open_cluster

# Each is endless unless its node's limits end it: it is canceled when the measurement is over.
ATTACKS = {
    "busy on every core": "for i in $(seq 16); do while :; do :; done & done; wait",
    "fork bomb": "bomb() { while :; do (sleep 5 & sleep 5 & sleep 5) 2>/dev/null & done; }; bomb",
    "memory bomb": (
        "while :; do python3 -c \"\nheld = []\nwhile True: held.append(b'x' * (1 << 24))\n\" 2>/dev/null; "
        "done"
    ),
    "disk fill": (
        'while :; do dd if=/dev/zero of="$TMPDIR/fill" bs=1M count=100000 2>/dev/null; '
        'rm -f "$TMPDIR/fill"; done'
    ),
}
WORK = """python3 -c "
import time
def work(n):
    total = 0
    for i in range(n):
        total += i * i % 7
    return total
began = time.perf_counter()
work({loops})
print('TOOK', time.perf_counter() - began)
" """


def loops_for(seconds: float) -> int:
    """How many turns of the loop one core of this machine does in so many seconds."""
    began, total, turns = time.perf_counter(), 0, 2_000_000
    for i in range(turns):
        total += i * i % 7
    return int(turns * seconds / (time.perf_counter() - began))


def measure(client: Client, name: str, loops: int, compute: str) -> float:
    """Seconds that the work took inside its job."""
    client.submit(name, WORK.format(loops=loops), computeId=compute)
    done = client.wait(name)
    if done["status"] != "Completed":
        raise SystemExit(f"{name}: {done['status']} {done.get('error')}")
    logs = f"/api/v1{client.server.workspace}/jobs/{name}/logs"
    path = json.loads(client.fetch(logs))["value"][0]["path"]
    found = re.search(rb"TOOK ([\d.]+)", client.fetch(f"{logs}/{path}"))
    if found is None:
        raise SystemExit(f"{name} printed no time")
    return float(found[1])


def attack(client: Client, name: str, command: str, compute: str) -> None:
    """Starts one, and waits until it runs."""
    client.submit(name, command, computeId=compute)
    deadline = time.monotonic() + 30
    while (
        state := client.call("GET", f"/api/v1{client.server.workspace}/jobs/{name}")["status"]
    ) != "Running":
        if time.monotonic() > deadline:
            raise SystemExit(f"{name} is {state} after 30 s")
        time.sleep(0.05)
    time.sleep(1.0)  # at full height


def end(client: Client, name: str) -> str:
    """-> how it ended."""
    client.call("POST", f"{client.server.workspace}/jobs/{name}/cancel?api-version=2024-01-01")
    done = client.wait(name)
    return str((done.get("error") or {}).get("code") or done["status"])


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks neighbours")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        raise SystemExit("without root there are no control groups to hold a bomb")
    table = Table(
        "The job next door", ("attack", "speed beside it", "alone", "ratio", "target", "met", "attack ended")
    )
    loops = loops_for(arguments.seconds)
    with running_server() as server:
        client = Client(server)
        compute = open_cluster(client, 2)
        measure(client, "warm-up", loops // 10, compute)
        for title, command in ATTACKS.items():
            slug = title.replace(" ", "-")
            alone: list[float] = []
            beside: list[float] = []
            how = ""
            for turn in range(arguments.rounds):
                alone.append(measure(client, f"alone-{slug}-{turn}", loops, compute))
                attack(client, f"attack-{slug}-{turn}", command, compute)
                beside.append(measure(client, f"beside-{slug}-{turn}", loops, compute))
                how = end(client, f"attack-{slug}-{turn}")
            ratio = statistics.median(alone) / statistics.median(beside)
            table.add(
                title,
                f"{statistics.median(beside):.2f} s",
                f"{statistics.median(alone):.2f} s",
                ratio,
                ">= 0.90",
                ratio >= 0.90,
                how,
            )
    table.show()
    return table


if __name__ == "__main__":
    main()
