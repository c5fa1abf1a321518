"""Mini-batches of a parallel step whose run() does nothing: from the first handed out to the last one stored.

    python -m benchmarks.parallel [--batches 3000] [--workers 2]

Another step makes the files, one for each mini-batch. The time is that between the first and the last
"Batches" of the job's time line, so staging is not in it, but storing every result durably is. Floor: a bare
loop that calls the same run() with the same paths in one process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import Client, Table, running_server
from benchmarks.jobs import open_cluster

SCRIPT = "def run(mini_batch):\n    return ['x' for _ in mini_batch]\n"
PIPELINE = """
type: pipeline
settings: {{default_compute: {compute}}}
jobs:
  make:
    type: command
    command: for i in $(seq {batches}); do echo > ${{{{outputs.made}}}}/$i; done
    environment: {{image: python}}
    outputs: {{made: {{type: uri_folder}}}}
  score:
    type: parallel
    inputs: {{data: "${{{{parent.jobs.make.outputs.made}}}}"}}
    outputs: {{rows: {{type: uri_file}}}}
    input_data: ${{{{inputs.data}}}}
    mini_batch_size: 1
    max_concurrency_per_instance: {workers}
    task:
      type: run_function
      code: ./code
      entry_script: s.py
      environment: {{image: python}}
      append_row_to: ${{{{outputs.rows}}}}
"""


def step(client: Client, home: Path, compute: str, batches: int, workers: int) -> dict[str, Any]:
    """The detail of the step's job, once the pipeline has ended."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "code").mkdir()
        (Path(folder) / "code" / "s.py").write_text(SCRIPT)
        text = PIPELINE.format(compute=f"azureml:{compute}", batches=batches, workers=workers)
        (Path(folder) / "p.yml").write_text(text)
        tidemill = [str(Path(sys.executable).with_name("tidemill")), "job", "create", "-f", "p.yml"]
        subprocess.run(
            [*tidemill, "--name", "batches"],
            cwd=folder,
            env={**os.environ, "TIDEMILL_HOME": str(home)},
            check=True,
            capture_output=True,
        )
    while (done := client.wait("batches"))["status"] not in ("Completed", "Failed", "Canceled"):
        pass
    path = f"/api/v1{client.server.workspace}/jobs"
    children = client.call("GET", f"{path}?parent=batches&limit=9")["value"]
    if done["status"] != "Completed":
        raise SystemExit(f"{done['error']} {[child['error'] for child in children]}")
    found = next(child for child in children if child["step"] == "score")
    return client.call("GET", f"{path}/{found['name']}")


def rate_of(job: dict[str, Any]) -> float:
    told = [datetime.fromisoformat(e["at"]) for e in job["timeline"] if e["code"] == "Batches"]
    return job["parallel"]["finished"] / (told[-1] - told[0]).total_seconds()


def bare(batches: int) -> float:
    names: dict[str, Any] = {}
    exec(SCRIPT, names)
    run = names["run"]
    started = time.perf_counter()
    rows = [row for number in range(batches) for row in run([f"/somewhere/{number}"])]
    return len(rows) / (time.perf_counter() - started)


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks parallel")
    parser.add_argument("--batches", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(argv)
    table = Table("Parallel steps", ("what", "figure", "floor", "ratio", "target", "met"))
    with running_server(images="prefer-host") as server:
        client = Client(server)
        open_cluster(client, 1)
        compute = client.call("GET", f"/api/v1{server.workspace}/computes")["value"]
        name = next(found["name"] for found in compute if found["name"] != "local")
        job = step(client, server.home, name, arguments.batches, arguments.workers)
        rate, floor = rate_of(job), bare(arguments.batches)
        what = f"{arguments.batches} no-op mini-batches, {arguments.workers} workers"
        table.add(what, f"{rate:.0f}/s", f"{floor:.0f}/s", rate / floor, None, None)
    table.show()
    return table


if __name__ == "__main__":
    main()
