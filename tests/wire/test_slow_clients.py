"""Clients that trickle, stall, pipeline garbage or send headers without an end: cut off, nobody else waits.

The bounds are the real ones, shortened. A client that is cut off sees the end of its connection: that is what
is waited for. One that behaves is served meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hostile import RawClient
from websockets.asyncio.client import connect

from tidemill.server import guard
from tidemill.server.guard import GuardedProtocol
from tidemill.server.listener import Listener, configure

WAIT_S = 60.0
OK = b"HTTP/1.1 200 OK"
GET = b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with how many bytes of body came."""
    count, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        count, more = count + len(message.get("body", b"")), message.get("more_body", False)
    body = str(count).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ended(self) -> bytes:
        """All that came until the server ended the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(), WAIT_S)
        except ConnectionError:
            return b""

    async def trickle(self, data: Iterator[bytes], every_s: float = 0.01) -> bytes:
        """Sends piece after piece until the server ends the connection."""
        ended = asyncio.create_task(self.ended())
        while not ended.done():
            self.writer.write(next(data))
            await asyncio.wait([ended], timeout=every_s)
        return await ended


class Place:
    def __init__(self, port: int) -> None:
        self.port = port
        self.peers: list[Peer] = []

    async def connect(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self.peers.append(peer)
        return peer

    async def works(self) -> None:
        """Tried again where this process stood still for so long that the server took us for a slow one."""
        async with asyncio.timeout(WAIT_S):
            while not (line := await self.asked()).startswith(OK):
                assert line == b""

    async def asked(self) -> bytes:
        peer = await self.connect()
        peer.send(GET)
        try:
            return await peer.reader.readline()
        except ConnectionError:
            return b""
        finally:
            peer.writer.close()


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(GuardedProtocol, "head_s", 0.3)
    monkeypatch.setattr(GuardedProtocol, "body_s", 0.4)
    monkeypatch.setattr(GuardedProtocol, "most", 8)
    bound = socket.create_server(("127.0.0.1", 0))
    listener = Listener(configure(app, grace_s=1))
    await listener.start([bound])
    made = Place(bound.getsockname()[1])
    yield made
    for peer in made.peers:
        peer.writer.close()
    await listener.stop()


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [b"\r\n"],
        [b"G"],
        [b"GET /x HTTP/1.1\r\n", *[b"a: b\r\n"] * 1_000],
        [b"GET /", *[b"x"] * 1_000],
    ],
    ids=["silent", "empty lines", "a letter", "headers", "path"],
)
async def test_headers_that_do_not_end_in_time(place: Place, pieces: list[bytes]) -> None:
    peer = await place.connect()
    assert await peer.trickle(itertools.chain(pieces, itertools.repeat(b""))) == b""
    await place.works()


async def test_a_websocket_that_is_silent_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own pings watch over it: the time for headers is not its time."""
    monkeypatch.setattr(GuardedProtocol, "head_s", 0.5)
    monkeypatch.setattr(GuardedProtocol, "body_s", 0.5)

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    bound = socket.create_server(("127.0.0.1", 0))
    listener = Listener(configure(echo, grace_s=1, websockets=True))
    await listener.start([bound])
    try:
        async with connect(f"ws://127.0.0.1:{bound.getsockname()[1]}/", proxy=None) as line:
            await asyncio.sleep(1.0)  # twice what a silent client would have
            await line.send("still here")
            assert await asyncio.wait_for(line.recv(), WAIT_S) == "still here"
    finally:
        await listener.stop()


async def test_also_after_a_first_request(place: Place) -> None:
    peer = await place.connect()
    peer.send(GET)
    await asyncio.wait_for(peer.reader.readuntil(b"0"), WAIT_S)
    assert OK not in await peer.trickle(itertools.chain([b"GET /y HT"], itertools.repeat(b"")))


@pytest.mark.parametrize("start", [b"content-length: 100000", b"transfer-encoding: chunked"])
async def test_a_body_that_trickles(place: Place, start: bytes) -> None:
    peer = await place.connect()
    peer.send(b"PUT /x HTTP/1.1\r\nhost: localhost\r\n" + start + b"\r\n\r\n")
    piece = b"1\r\nx\r\n" if b"chunked" in start else b"x"
    assert OK not in await peer.trickle(itertools.repeat(piece), every_s=0.05)
    await place.works()


async def test_a_body_that_is_fast_enough_is_taken_however_long_it_lasts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GuardedProtocol, "head_s", WAIT_S)
    peer = await place.connect()
    size = 1_000
    peer.send(b"PUT /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20000\r\n\r\n")
    for _ in range(20_000 // size):  # 1 s in all, over twice the patience with a slow one
        peer.send(b"x" * size)
        await asyncio.sleep(0.05)
    answer = await asyncio.wait_for(peer.reader.readuntil(b"20000"), WAIT_S)
    assert answer.startswith(OK)


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /x HTTP/1.1\r\nhost: localhost\r\na: " + b"b" * 200_000,
        b"GET /x HTTP/1.1\r\n" + b"a: b\r\n" * 40_000,
        b"GET /" + b"x" * 200_000,
        b"x" * 200_000,
        b"PUT /x HTTP/1.1\r\nhost: l\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 40_000,
        b"PUT /x HTTP/1.1\r\nhost: l\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"b" * 900_000,
        b"PUT /x HTTP/1.1\r\nhost: l\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"b" * 900_000,
        b"PUT /x HTTP/1.1\r\nhost: l\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        b"PUT /x HTTP/1.1\r\nhost: l\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nhost: l\r\ncontent-length: -1\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nhost: l\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nhost: l\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: l\r\n\r\n",
        b"GET /x HTTP/9.9\r\nhost: l\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
        b"GET /x HTTP/1.1\r\na\x00b: c\r\n\r\n",
        b"GET /x HTTP/1.1\r\n folded: c\r\n\r\n",
    ],
)
async def test_what_is_no_request_ends_the_connection(place: Place, endless: bytes) -> None:
    peer = await place.connect()
    peer.send(endless)
    answer = await peer.ended()
    assert OK not in answer
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    await place.works()


async def test_garbage_after_a_request_is_not_taken_for_one(place: Place) -> None:
    peer = await place.connect()
    peer.send(GET + b"\x00garbage\r\n\r\n" + GET)
    answer = await peer.ended()
    assert answer.count(OK) <= 1
    await place.works()


async def test_pipelined_requests_are_answered_in_order(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GuardedProtocol, "head_s", WAIT_S)
    peer = await place.connect()
    for size in (1, 22, 333):
        peer.send(b"PUT /x HTTP/1.1\r\nhost: l\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
    answer = await asyncio.wait_for(peer.reader.readuntil(b"333"), WAIT_S)
    assert answer.count(OK) == 3
    assert answer.index(b"\r\n\r\n1") < answer.index(b"\r\n\r\n22") < answer.index(b"\r\n\r\n333")


async def test_only_so_many_connections_are_let_in(place: Place) -> None:
    """Those over the bound are turned away at once; as the slow ones are cut off there is room again."""
    slow = [await place.connect() for _ in range(8)]
    for peer in slow:
        peer.send(b"GET /")
    turned_away = await place.connect()
    assert await turned_away.ended() == b""
    for peer in slow:
        assert await peer.ended() == b""
    await place.works()


def test_the_bounds_follow_what_the_process_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, allowed in ((1_024, 768), (1_000_000, guard.MOST_CONNECTIONS), (-1, guard.MOST_CONNECTIONS)):
        monkeypatch.setattr(guard.resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert guard.connections_allowed() == allowed


def test_the_real_server_stays_up(server: Any) -> None:
    """Both processes, over TLS too: garbage instead of a handshake, of a request, of a body."""
    addresses = server.state["addresses"]
    for address in addresses.values():
        port = int(address.rsplit(":", 1)[1])
        for junk in (b"", b"\x00" * 1_000, b"\x16\x03\x01" + b"\xff" * 500, b"GET / HTTP/1.1\r\n" * 500):
            with socket.create_connection(("127.0.0.1", port), WAIT_S) as peer:
                peer.sendall(junk)
    client = RawClient(int(addresses["http"].rsplit(":", 1)[1]), {})
    reply = client.send("GET", "/api/v1/status")
    client.close()
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (401, "AuthenticationFailed")
    for name in ("control", "data"):
        log = (server.home / "logs" / f"{name}.log").read_text()
        assert "Traceback" not in log, log[-3000:]
