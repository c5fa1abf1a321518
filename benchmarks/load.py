"""A load generator in a process of its own, so that it costs the measured one nothing but requests.

    answer = load.run(Target("127.0.0.1:8440", "/path", {"Authorization": …}), connections=16, seconds=3)

Each connection sends its next request when the answer before is whole. Every answer must be a 200.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class Target:
    """One GET. `ca` is a file of certificates: given, it is asked over TLS."""

    netloc: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    ca: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    requests: int
    seconds: float
    latencies: list[float]  # seconds, of each request


def run(target: Target, *, connections: int, seconds: float) -> Answer:
    """Blocks for `seconds`. Raises SystemExit when an answer is not a 200."""
    return finish(start(target, connections=connections, seconds=seconds), seconds)


def start(target: Target, *, connections: int, seconds: float, pause: float = 0.0) -> subprocess.Popen[bytes]:
    """`pause`: what a connection waits after an answer, in seconds."""
    order = {"target": asdict(target), "connections": connections, "seconds": seconds, "pause": pause}
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(order).encode())
    child.stdin.close()
    child.stdin = None  # communicate would flush it
    return child


def finish(child: subprocess.Popen[bytes], seconds: float) -> Answer:
    """The result of a child that was told to take `seconds`; one that takes much longer is ended."""
    try:
        out, _ = child.communicate(timeout=seconds + 15)
    finally:
        child.kill()
    if child.returncode != 0:
        raise SystemExit("The load generator ended with an error.")
    return Answer(**json.loads(out))


class _Connection(asyncio.Protocol):
    """One kept connection. Reads no more of an answer than its status and its Content-Length."""

    def __init__(self, request: bytes, until: float, pause: float) -> None:
        self._request = request
        self._until = until
        self._pause = pause
        self._held = b""
        self._missing = -1  # bytes of the answer still to come; -1: its head is not whole
        self._sent = 0.0
        self.latencies: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._send()

    def _send(self) -> None:
        if time.perf_counter() >= self._until:
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            data = self._held = self._held + data
            head, found, body = data.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self._fail(data[:500].decode("latin-1"))
                return
            at = head.lower().index(b"content-length:") + 15
            self._missing = int(head[at:].split(b"\r\n", 1)[0]) - len(body)
            self._held = b""
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._missing = -1
            self.latencies.append(time.perf_counter() - self._sent)
            if self._pause:
                asyncio.get_running_loop().call_later(self._pause, self._send)
            else:
                self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if time.perf_counter() < self._until:
            self._fail(f"the server closed the connection: {exc}")

    def _fail(self, why: str) -> None:
        print(f"load: {why}", file=sys.stderr)
        sys.exit(1)


async def _serve(order: dict[str, Any]) -> Answer:
    target = Target(**order["target"])
    host, _, port = target.netloc.rpartition(":")
    lines = {"Host": target.netloc, **target.headers}
    head = f"GET {target.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    request = head.encode() + b"\r\n"
    tls = ssl.create_default_context(cafile=target.ca) if target.ca else None
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    until = started + order["seconds"]
    made = [
        await loop.create_connection(
            lambda: _Connection(request, until, order["pause"]), host, int(port), ssl=tls
        )
        for _ in range(order["connections"])
    ]
    await asyncio.gather(*(connection.ended for _, connection in made))
    latencies = [value for _, connection in made for value in connection.latencies]
    return Answer(len(latencies), time.perf_counter() - started, latencies)


def main() -> None:
    import uvloop

    order = json.load(sys.stdin)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answer = runner.run(_serve(order))
    json.dump(asdict(answer), sys.stdout)


if __name__ == "__main__":
    main()
