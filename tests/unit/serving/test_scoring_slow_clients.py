"""How long a request may take to arrive, on a clock of the test's."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tidemill.serving.scoring import connection as module
from tidemill.serving.scoring import shared
from tidemill.serving.scoring.connection import Connection


class Transport:
    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None: ...

    def close(self) -> None: ...


class Socket:
    def __init__(self) -> None:
        self.sent = b""

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)


class Serving:
    max_body = 1 << 30
    draining = False
    headers = ""
    access = None
    has_cors = False

    def __init__(self) -> None:
        self.states = bytearray(4)
        self.connections = set[Connection]()
        self.reading = set[Connection]()
        self.told: list[tuple[int, int]] = []

    def reads(self, connection: Connection) -> None:
        self.reading.add(connection)

    def tell(self, kind: int, slot: int) -> None:
        self.told.append((kind, slot))


class Arriving:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.serving = Serving()
        self.sock = Socket()
        self.connection = Connection(cast(Any, self.serving), cast(Any, self.sock), 2)
        self.connection.connection_made(cast(asyncio.BaseTransport, Transport()))

    def get(self, data: bytes) -> None:
        self.connection.data_received(data)

    def passes(self, seconds: float, paused: float = 0.0) -> bytes:
        """-> what is answered."""
        self.now += seconds
        self.connection.late(self.now, paused)
        return self.sock.sent


@pytest.fixture
def arriving(monkeypatch: pytest.MonkeyPatch) -> Arriving:
    return Arriving(monkeypatch)


def test_headers_that_do_not_end_are_refused(arriving: Arriving) -> None:
    arriving.get(b"POST /score HTTP/1.1\r\nHost: x\r\n")
    assert arriving.serving.states[2] == shared.ASKED
    assert arriving.passes(module.HEAD_S) == b""
    arriving.get(b"X-A: b\r\n")
    assert arriving.passes(0.1).startswith(b"HTTP/1.1 408 ")
    assert arriving.serving.told == [(shared.LINGER, 2)]
    assert arriving.serving.states[2] == shared.IDLE


def test_a_body_has_time_for_its_size(arriving: Arriving) -> None:
    arriving.get(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    arriving.get(b"x" * (module.BODY_RATE * 10))
    assert arriving.passes(module.BODY_S + 9) == b""
    reply = arriving.passes(2)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"The body came too slowly: 40960 bytes in 41 s." in reply


def test_time_in_which_the_worker_read_nothing_does_not_count(arriving: Arriving) -> None:
    arriving.get(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    assert arriving.passes(300, paused=299) == b""
    assert arriving.passes(module.BODY_S).startswith(b"HTTP/1.1 408 ")
