"""ARM reads while a blob is uploaded: p99 during 1 GB of PUT against p99 at rest.

    python -m benchmarks.upload_latency [--mib 1024] [--rounds 3]

Two clients read one job each 5 ms, in a process of their own; a third process uploads over https to the data
process with the account key, in blocks as Azure's clients do.
"""

from __future__ import annotations

import argparse
import http.client
import ssl
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import load
from benchmarks.common import Client, Server, Table, running_server

MIB = 1 << 20
BLOCK = 4 * MIB
TARGET = 3.0
READERS, PAUSE_S = 2, 0.005


def upload(url: str, query: str, ca: str, mib: int) -> None:
    """PUTs `mib` MiB as blocks and commits them. Raises SystemExit when one is refused."""
    import base64

    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(parts.netloc, context=ssl.create_default_context(cafile=ca))
    data = bytes(BLOCK)
    ids = [base64.b64encode(f"{number:08d}".encode()).decode() for number in range(mib * MIB // BLOCK)]
    listed = "".join(f"<Latest>{name}</Latest>" for name in ids)
    puts = [(f"comp=block&blockid={name}", data) for name in ids]
    puts.append(
        ("comp=blocklist", f'<?xml version="1.0"?><BlockList>{listed}</BlockList>'.encode()),
    )
    for operation, body in puts:
        connection.request("PUT", f"{parts.path}?{operation}&{query}", body, {"x-ms-version": "2021-12-02"})
        reply = connection.getresponse()
        answer = reply.read()
        if reply.status != 201:
            raise SystemExit(f"PUT {operation[:40]}: {reply.status} {answer.decode()}")


def signed(server: Server) -> tuple[str, str]:
    """-> (address of the blob, SAS) in the workspace's own account."""
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    keys = Client(server).call("POST", f"{server.workspace}/listKeys?api-version=2024-01-01")
    account = keys["userStorageResourceId"].rsplit("/", 1)[1]
    sas = generate_container_sas(
        f"{account}.blob.core.windows.net",
        "azureml-blobstore",
        keys["userStorageKey"],
        permission=ContainerSasPermissions(read=True, write=True, create=True),
        expiry="2099-01-01T00:00:00Z",
    )
    base = server.state["addresses"]["data"]
    return f"{base}/{account}.blob.core.windows.net/azureml-blobstore/bench/big", sas


def p99(target: load.Target, seconds: float) -> float:
    child = load.start(target, connections=READERS, seconds=seconds, pause=PAUSE_S)
    return _p99(load.finish(child, seconds))


def _p99(answer: load.Answer) -> float:
    return statistics.quantiles(answer.latencies, n=100)[98]


def during_upload(server: Server, target: load.Target, url: str, sas: str, mib: int) -> tuple[float, float]:
    """-> (p99 of the reads during the upload, MiB/s of the upload)."""
    ca = str(server.home / "tls" / "ca.pem")
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.upload_latency", "--upload", url, sas, ca, str(mib)],
        cwd=Path(__file__).parents[1],
    )
    latencies: list[float] = []
    try:
        while child.poll() is None and time.perf_counter() - started < 120:
            reader = load.start(target, connections=READERS, seconds=1.0, pause=PAUSE_S)
            answer = load.finish(reader, 1.0)
            if child.poll() is None:  # the last one would be half at rest
                latencies += answer.latencies
        taken = time.perf_counter() - started
    finally:
        child.kill()
    if child.wait() != 0 or len(latencies) < 200:
        raise SystemExit("The upload failed, or was too short to measure: give a larger --mib.")
    return statistics.quantiles(latencies, n=100)[98], mib / taken


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks upload_latency")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--upload", nargs=4, metavar=("URL", "SAS", "CA", "MIB"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    table = Table(
        f"ARM reads during an upload of {options.mib} MiB",
        ("what", "figure", "floor", "ratio", "target", "met", "upload"),
    )
    if options.upload:
        upload(*options.upload[:3], int(options.upload[3]))
        return table
    with running_server() as server:
        client = Client(server)
        client.submit("read-me", "true")
        client.wait("read-me")
        path = f"{server.workspace}/jobs/read-me?api-version=2024-01-01"
        target = load.Target(server.netloc, path, {"Authorization": f"Bearer {server.token}"})
        url, sas = signed(server)
        p99(target, 1.0)
        rounds: list[tuple[float, float, float]] = []
        for _ in range(options.rounds):
            idle = p99(target, 3.0)
            rounds.append((idle, *during_upload(server, target, url, sas, options.mib)))
        ratio = statistics.median(busy / idle for idle, busy, _ in rounds)
        idle, busy, rate = (statistics.median(column) for column in zip(*rounds, strict=True))
        table.add(
            "p99 of GET one job",
            f"{busy * 1e3:.2f} ms",
            f"{idle * 1e3:.2f} ms (idle)",
            ratio,
            f"<= {TARGET:.0f}x",
            ratio <= TARGET,
            f"{rate:.0f} MiB/s",
        )
    table.show()
    return table


if __name__ == "__main__":
    main()
