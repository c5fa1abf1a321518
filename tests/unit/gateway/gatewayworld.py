"""A gateway in the test's own loop, with instances that do what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from tidemill.domain.serving.routes import Backend, Endpoint, Table, Target
from tidemill.engines.base import EngineError
from tidemill.serving.gateway.access_log import AccessLog
from tidemill.serving.gateway.client import Client
from tidemill.serving.gateway.gateway import Gateway
from tidemill.serving.gateway.live import LiveEndpoint

KEY = "right-key"
PATH = "/endpoints/sub/group/ws/ep/score"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Backing:
    """An instance: an HTTP server that keeps what it was asked."""

    def __init__(self, name: str = "blue") -> None:
        self.name = name
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.gate = asyncio.Event()
        self.gate.set()
        self.serve: Serve | None = None
        self.server: asyncio.Server | None = None
        self.port = 0
        self._kept: socket.socket | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Again on its port, where it had one."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        if self._kept is not None:
            self._kept.close()
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As if it were killed: nobody listens on the port, which nobody else gets, and its connections are
        closed."""
        if self.server is not None:
            self.server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", self.port))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self.serve is not None:
                await self.serve(reader, writer)
                return
            with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
                while True:
                    await self.read(reader)
                    await self.gate.wait()
                    writer.write(self.answer)
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        low = head.lower()
        body = b""
        if b"transfer-encoding: chunked" in low:
            while size := int((await reader.readline()).strip(), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        elif b"content-length:" in low:
            length = int(low.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
        self.bodies.append(body)
        return body


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes
    interim: list[int] = field(default_factory=list)


@dataclass
class World:
    gateway: Gateway
    port: int
    backings: dict[str, Backing]
    news: list[bool] = field(default_factory=list)
    version: int = 0
    table: Table = Table()  # noqa: RUF009
    allowed: set[str] = field(default_factory=set)  # tokens

    def route(self, *, traffic: dict[str, int] | None = None, **changes: Any) -> None:
        """One endpoint, a deployment for each backing. `changes`: of the endpoint, or of all deployments."""
        of_endpoint = {"auth", "digests", "mirror", "public", "body_bytes", "rate"}
        more = {name: changes.pop(name) for name in of_endpoint & changes.keys()}
        deployments = tuple(
            replace(
                Backend(name, name, timeout_s=60.0, max_concurrent=100, instances=(self.target(name),)),
                **changes,
            )
            for name in self.backings
        )
        shares = traffic if traffic is not None else {next(iter(self.backings)): 100}
        digests = (sha256(KEY.encode()).hexdigest(), sha256(b"other").hexdigest())
        endpoint = Endpoint(
            "sub/group/ws/ep", "ep-uid", "Key", digests, tuple(shares.items()), deployments=deployments
        )
        self.set(replace(endpoint, **more))

    def target(self, name: str, number: int = 0) -> Target:
        return Target(f"{name}-{number}", "node", "attempt", 0, self.backings[name].port)

    def set(self, *endpoints: Endpoint) -> None:
        self.version += 1
        self.table = Table(self.version, endpoints)
        self.gateway.apply(self.table)

    @property
    def endpoint(self) -> Endpoint:
        return self.table.endpoints[0]

    async def open(self) -> Line:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Line(reader, writer)

    async def ask(
        self, body: bytes = b"{}", method: str = "POST", path: str = PATH, key: str = KEY, **headers: str
    ) -> Answered:
        line = await self.open()
        try:
            line.send(body, method, path, key, **headers)
            return await line.answer(method)
        finally:
            line.close()


class Line:
    """A caller's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(
        self, body: bytes = b"{}", method: str = "POST", path: str = PATH, key: str = KEY, **headers: str
    ) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: x"]
        if key:
            lines.append(f"Authorization: Bearer {key}")
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, method: str = "POST") -> Answered:
        interim: list[int] = []
        async with asyncio.timeout(60):
            while True:
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                status = int(first.split(" ")[1])
                if status != 100:
                    break
                interim.append(status)
            headers = {
                name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
            }
            body = b""
            if method == "HEAD" or status in (101, 204, 304):
                pass
            elif headers.get("transfer-encoding") == "chunked":
                while size := int((await self.reader.readline()).strip(), 16):
                    body += await self.reader.readexactly(size)
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
            else:
                body = await self.reader.readexactly(int(headers["content-length"]))
        return Answered(status, headers, body, interim)

    async def ended(self) -> bytes:
        """What comes until the gateway closes it."""
        async with asyncio.timeout(60):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        self.writer.close()


@contextlib.asynccontextmanager
async def world(*names: str) -> AsyncIterator[World]:
    loop = asyncio.get_running_loop()
    backings = {name: Backing(name) for name in names or ("blue",)}
    for backing in backings.values():
        await backing.start()

    async def dial(target: Target) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", target.port))
        except OSError as error:
            sock.close()
            raise EngineError(str(error)) from None
        return sock

    async def check(endpoint: LiveEndpoint, token: str) -> None:
        from tidemill.serving.gateway.refusals import Denied

        await asyncio.sleep(0)
        if token not in made.allowed:
            raise Denied(403, "Forbidden", f"{token!r} has no role on {endpoint.record.path}.")

    gateway = Gateway(loop, dial, check, AccessLog(None), "metrics-token")
    server = await loop.create_server(lambda: Client(gateway, False), "127.0.0.1", 0)
    made = World(gateway, server.sockets[0].getsockname()[1], backings)
    gateway.on_news = made.news.append
    made.route()
    try:
        yield made
    finally:
        server.close()
        await gateway.drain(0)
        for backing in backings.values():
            await backing.stop()


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        return found


def error(body: bytes) -> tuple[str, str]:
    said = json.loads(body)["error"]
    return said["code"], said["message"]
