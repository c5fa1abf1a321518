"""What a node's surroundings cost: opening one with its disk, network and sandbox; bytes through its relay.

    python -m benchmarks.nodes [--nodes 30] [--megabytes 512] [--connections 300]

Floors: a Python that starts and ends (an agent is one); the same service without the relay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import Table
from tidemill.domain.model import Vector
from tidemill.engines.base import EngineEvent, NodeSpec
from tidemill.engines.helped import HelperHost
from tidemill.engines.local import LocalEngine
from tidemill.sandbox import network
from tidemill.server import privileges
from tidemill.server.ports import SystemClock

CHUNK = 1 << 20


def floor_python(count: int = 20) -> float:
    """Seconds to start and end one, median."""
    taken: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def serve(megabytes: int) -> socket.socket:
    """Sends so much to who says b"b", and one byte to who says anything else."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def run() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                for _ in range(megabytes if sock.recv(1) == b"b" else 0):
                    sock.sendall(bytes(CHUNK))
                sock.sendall(b"x")

    threading.Thread(target=run, daemon=True).start()
    return listener


def measure(port: int, connections: int) -> tuple[float, float]:
    """-> (seconds of a connection with one byte each way, bytes a second)."""
    taken: list[float] = []
    for _ in range(connections):
        started = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"a")
            sock.recv(1)
        taken.append(time.perf_counter() - started)
    started, got = time.perf_counter(), 0
    buffer = bytearray(CHUNK)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"b")
        while count := sock.recv_into(buffer):
            got += count
    return statistics.median(taken), got / (time.perf_counter() - started)


def inside(entry: dict[str, Any], work: Callable[[], Any]) -> Any:
    """The answer of `work`, done in the network of a node."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            network.shared(**entry).enter()
            os.write(writer, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


async def until(engine: LocalEngine, kind: str) -> EngineEvent:
    async with asyncio.timeout(60):
        async for event in engine.events():
            if event.kind == "node_lost":
                raise SystemExit(event.message)
            if event.kind == kind:
                return event
    raise AssertionError("the engine's events do not end")


async def opened_and_closed(engine: LocalEngine, count: int) -> tuple[list[float], list[float], EngineEvent]:
    opening: list[float] = []
    closing: list[float] = []
    for i in range(count):
        started = time.perf_counter()
        await engine.open_node(NodeSpec(f"n-{i}", Vector(1000, 256 << 20)))
        ready = await until(engine, "node_ready")
        opening.append(time.perf_counter() - started)
        started = time.perf_counter()
        await engine.close_node(f"n-{i}")
        await until(engine, "node_closed")
        closing.append(time.perf_counter() - started)
    return opening[1:], closing[1:], ready


def by_a_server_without_root(folder: Path, count: int) -> tuple[list[float], list[float]]:
    """Seconds of each opening and closing, by the helper of a home of their own."""
    home = folder / "dropped"
    argv = [sys.executable, "-m", "benchmarks.nodes", "--dropped", str(home), "--nodes", str(count)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    opening, closing = json.loads(done.stdout)
    return opening, closing


def dropped(home: Path, count: int) -> None:
    """In a process of its own, which gives root up as a server does."""
    standing = privileges.drop(home)
    if not standing.helped:
        raise SystemExit(f"a server keeps root here: {standing.why_root or 'it has none'}")
    host = HelperHost(home)

    async def measured() -> tuple[list[float], list[float], EngineEvent]:
        return await opened_and_closed(LocalEngine(home, clock=SystemClock(), host=host), count)

    opening, closing, ready = asyncio.run(measured())
    host.leave()
    for name in ("disk", "network"):
        if not ready.limits[name].enforced:
            raise SystemExit(f"nodes have no {name} of their own here: {ready.limits[name].why_not}")
    print(json.dumps([opening, closing]))


async def run(table: Table, folder: Path, nodes: int, megabytes: int, connections: int) -> None:
    service = serve(megabytes)
    port = service.getsockname()[1]
    engine = LocalEngine(folder, clock=SystemClock(), services={"http": port})
    python = floor_python()
    opening, closing = await asyncio.to_thread(by_a_server_without_root, folder, nodes + 1)
    middle = statistics.median(opening)
    figure, floor = f"{middle * 1e3:.0f} ms", f"{python * 1e3:.0f} ms"
    table.add("a node is opened, p50", figure, floor, middle / python, "<= 30 ms", middle <= 0.030)
    table.add("a node is closed, p50", f"{statistics.median(closing) * 1e3:.0f} ms", None, None, None, None)
    opening, _, _ = await opened_and_closed(engine, nodes + 1)
    alone = statistics.median(opening)
    table.add(
        "the same by a server that keeps root", f"{alone * 1e3:.0f} ms", floor, alone / python, None, None
    )
    await engine.open_node(NodeSpec("relay", Vector(1000, 256 << 20)))
    await until(engine, "node_ready")
    pid = int((folder / "nodes/relay/agent/pid").read_text())
    entry = json.loads((folder / "nodes/relay/agent/journal").read_text().splitlines()[0])["network"]
    assert entry["pid"] == pid
    direct = await asyncio.to_thread(measure, port, connections)
    relayed = await asyncio.to_thread(inside, entry, lambda: measure(port, connections))
    each = (f"{relayed[0] * 1e6:.0f} us", f"{direct[0] * 1e6:.0f} us")
    table.add("a connection through the relay, p50", *each, relayed[0] / direct[0], None, None)
    each = (f"{relayed[1] / 1e6:.0f} MB/s", f"{direct[1] / 1e6:.0f} MB/s")
    table.add("bytes through the relay", *each, relayed[1] / direct[1], None, None)
    await engine.close_node("relay")
    await until(engine, "node_closed")
    await engine.detach()
    service.close()


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks nodes")
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--connections", type=int, default=300)
    parser.add_argument("--dropped", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.dropped is not None:
        dropped(arguments.dropped, arguments.nodes)
        return Table("Nodes", ())
    table = Table("Nodes", ("what", "figure", "floor", "ratio", "target", "met"))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        asyncio.run(run(table, Path(folder), arguments.nodes, arguments.megabytes, arguments.connections))
    table.show()
    return table


if __name__ == "__main__":
    main()
