"""What one caller, or one instance, can take of the gateway: time, bytes, requests; and streams."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from gatewayworld import KEY, PATH, World, until, world

from tidemill.serving.gateway import client, gateway

HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()


async def status_of(w: World, raw: bytes) -> tuple[int, str]:
    line = await w.open()
    line.raw(raw)
    answer = await line.answer()
    assert await line.ended() == b""  # nothing after it is taken for a request
    return answer.status, json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (
            HEAD
            + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
            400,
        ),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\naXX\r\n", 400),
        (HEAD + b"A: b\r\n folded: c\r\n\r\n", 400),
        (HEAD + b"A: " + b"x" * (70 << 10), 431),
        (HEAD + b"A: b\r\n" * 300 + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1000000000000\r\n\r\n", 413),
    ],
)
async def test_refused_and_the_connection_ends(raw: bytes, status: int) -> None:
    async with world() as w:
        got, message = await status_of(w, raw)
        assert got == status, message
        assert not w.backings["blue"].heads


async def test_a_body_over_the_endpoints_limit() -> None:
    async with world() as w:
        w.route(body_bytes=1000)
        assert (await w.ask(b"x" * 1000)).status == 200
        answer = await w.ask(b"x" * 1001)
        assert (answer.status, "1000 is the limit" in answer.body.decode()) == (413, True)
        many = b"".join(b"64\r\n" + b"x" * 100 + b"\r\n" for _ in range(20))
        assert (await status_of(w, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + many))[0] == 413


async def test_an_endpoints_rate() -> None:
    async with world() as w:
        w.route(rate=5.0)
        w.gateway.now = lambda: 1000.0  # no time passes, however long the answers take
        answers = [await w.ask() for _ in range(8)]
        assert [one.status for one in answers] == [200] * 5 + [429] * 3
        assert answers[5].headers["retry-after"] == "1"
        w.route(rate=5.0)  # a new table is no new allowance
        assert (await w.ask()).status == 429
        w.gateway.now = lambda: 1000.2
        assert (await w.ask()).status == 200


async def test_a_rate_ends_no_connection() -> None:
    """Also not of a caller that sends the same head again."""
    async with world() as w:
        w.route(rate=2.0)
        w.gateway.now = lambda: 1000.0
        line = await w.open()
        for status in (200, 200, 429, 429):
            line.send(b"", method="GET")
            answer = await line.answer()
            assert (answer.status, "connection" in answer.headers) == (status, False)


# --- slow callers


async def test_slow_heads_bodies_and_idle_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LOOK_S", 0.02)
    monkeypatch.setattr(client, "HEAD_S", 0.2)
    monkeypatch.setattr(client, "BODY_S", 0.2)
    async with world() as w:
        head, body, idle = [await w.open() for _ in range(3)]
        body.raw(HEAD + b"Content-Length: 100\r\n\r\nxx")

        async def trickle() -> None:
            for one in HEAD:
                head.raw(bytes([one]))
                await asyncio.sleep(0.03)

        trickling = asyncio.create_task(trickle())
        assert (await body.answer()).status == 408
        assert (await head.answer()).status == 408
        trickling.cancel()
        monkeypatch.setattr(client, "IDLE_S", 0.2)
        assert await idle.ended() == b""
        assert not w.backings["blue"].heads  # no instance was kept busy by them


async def test_a_caller_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LOOK_S", 0.02)
    monkeypatch.setattr(client, "STUCK_S", 0.3)
    async with world() as w:
        size = 256 << 20  # much more than the kernel keeps between the three
        sent = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await w.backings["blue"].read(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            while sent < size:
                writer.write(b"x" * 65536)
                sent += 65536
                await writer.drain()

        w.backings["blue"].serve = serve
        sock = socket.create_connection(("127.0.0.1", w.port))
        sock.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        await until(lambda: sent > 1 << 20)
        await until(lambda: not w.gateway.report()["in_flight"])
        assert sent < size // 2  # the instance was held back, the gateway kept little
        sock.close()


# --- streams


async def test_large_bodies_stream_and_are_held_back() -> None:
    """Until the instance reads, the caller cannot send: the gateway keeps no body."""
    async with world() as w:
        size = 64 << 20
        go = asyncio.Event()
        got = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal got
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"content-length: %d" % size in head.lower()
            await go.wait()
            while got < size:
                got += len(await reader.read(1 << 20))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
            await writer.drain()

        w.backings["blue"].serve = serve
        line = await w.open()
        line.raw(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        sent = 0

        async def send() -> None:
            nonlocal sent
            while sent < size:
                line.raw(b"x" * 65536)
                sent += 65536
                await line.writer.drain()

        sending = asyncio.create_task(send())
        held = -1
        while held != sent:
            held = sent
            await asyncio.sleep(0.2)
        assert sent < size // 2
        go.set()
        assert (await line.answer()).body == b"done"
        await sending
        assert got == size
        line.close()


async def test_large_bodies_in_chunks() -> None:
    async with world() as w:
        line = await w.open()
        line.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        body = b""
        for number in range(40):
            piece = bytes([number]) * 20_000
            body += piece
            line.raw(b"%x\r\n%b\r\n" % (len(piece), piece))
            await line.writer.drain()
        line.raw(b"0\r\n\r\n")
        assert (await line.answer()).status == 200
        assert w.backings["blue"].bodies == [body]
        assert b"transfer-encoding: chunked" in w.backings["blue"].heads[0].lower()
        line.send(b"next")
        assert (await line.answer()).status == 200
        line.close()


async def test_an_answer_comes_as_it_is_made() -> None:
    async with world() as w:
        go = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await w.backings["blue"].read(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            await go.wait()
            writer.write(b"4\r\nlast\r\n0\r\n\r\n")
            await writer.drain()

        w.backings["blue"].serve = serve
        line = await w.open()
        line.send()
        head = await line.reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower()
        assert await line.reader.readexactly(10) == b"5\r\nfirst\r\n"
        go.set()
        assert await line.reader.readexactly(14) == b"4\r\nlast\r\n0\r\n\r\n"
        line.close()


async def test_an_answer_that_breaks_off_has_no_end() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await w.backings["blue"].read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    async with world() as w:
        w.backings["blue"].serve = serve
        line = await w.open()
        line.send()
        said = await line.ended()
        assert not said.endswith(b"0\r\n\r\n")
        await until(lambda: not w.gateway.report()["in_flight"])


async def test_an_early_answer_ends_the_body() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await reader.read()

    async with world() as w:
        w.backings["blue"].serve = serve
        line = await w.open()
        line.raw(HEAD + b"Content-Length: 10000000\r\n\r\n" + b"x" * 400_000)
        answer = await line.answer()
        assert (answer.status, answer.headers["ms-azureml-model-error-statuscode"]) == (424, "413")
        await line.ended()


# --- other protocols


async def test_websockets_pass() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade: websocket" in head.lower()
        assert b"connection: upgrade" in head.lower()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nA: b\r\n\r\nhi"
        )
        while data := await reader.read(100):
            writer.write(data.upper())
            await writer.drain()

    async with world() as w:
        w.backings["blue"].serve = serve
        line = await w.open()
        line.raw(HEAD.replace(b"POST", b"GET") + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        answer = await line.answer()
        assert (answer.status, answer.headers["upgrade"], answer.headers["a"]) == (101, "websocket", "b")
        assert await line.reader.readexactly(2) == b"hi"
        later = asyncio.get_running_loop().time() + 3600
        w.gateway.dispatcher._now = lambda: later  # the request's time is over, the tunnel's is not
        w.news.clear()
        await until(lambda: len(w.news) > 2)
        line.raw(b"ping")
        assert await line.reader.readexactly(4) == b"PING"
        line.close()
        await until(lambda: not w.gateway.report()["in_flight"])


# --- what it tells of itself


async def test_metrics_for_prometheus() -> None:
    async with world("blue", "green") as w:
        w.route(traffic={"blue": 100})
        for _ in range(3):
            await w.ask()
        w.backings["blue"].answer = b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"
        await w.ask()
        assert (await w.ask(method="GET", path="/metrics")).status == 401
        said = await w.ask(b"", "GET", "/metrics", "metrics-token")
        assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = said.body.decode().splitlines()
        blue = 'group="group",workspace="ws",endpoint="ep",deployment="blue"'
        assert f'tidemill_endpoint_requests_total{{{blue},code="200"}} 3' in lines
        assert f'tidemill_endpoint_requests_total{{{blue},code="424"}} 1' in lines
        assert f'tidemill_endpoint_request_seconds_bucket{{{blue},le="+Inf"}} 4' in lines
        assert f"tidemill_endpoint_request_seconds_count{{{blue}}} 4" in lines
        assert f"tidemill_endpoint_instances{{{blue}}} 1" in lines
        counts = [int(one.rpartition(" ")[2]) for one in lines if "_bucket{" + blue in one]
        assert counts == sorted(counts)


async def test_control_hears_of_rates_that_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LOOK_S", 0.02)
    async with world() as w:
        await w.ask()
        await until(lambda: not w.gateway.dispatcher.active)
        w.news.clear()
        await until(lambda: len(w.news) > 2)  # nobody asks for anything, and control is told again


async def test_what_control_is_told() -> None:
    async with world() as w:
        w.backings["blue"].gate.clear()
        asked = asyncio.create_task(w.ask())
        await until(lambda: w.backings["blue"].heads)
        report = w.gateway.report()
        assert report["version"] == w.version
        assert report["in_flight"] == {"blue-0": 1}
        assert report["deployments"]["blue"]["in_flight"] == 1
        await asyncio.sleep(0.03)
        w.backings["blue"].gate.set()
        assert (await asked).status == 200
        told = w.gateway.report()["deployments"]["blue"]
        assert (told["requests"], told["errors"], told["in_flight"]) == (1, 0, 0)
        assert 25 <= told["p50_ms"] <= 60_000
        assert told["p50_ms"] <= told["p99_ms"]
