"""Bounds on what one client can take of a listener: time, bytes of headers, connections.

uvicorn limits how long a connection may be idle between requests, and nothing else. Here a client must send
its headers within `HEAD_S` and `MAX_HEAD` bytes, and a body at `MIN_RATE` at least: one that sends less for
`BODY_S` is cut off (not while we ourselves do not read). Beyond `connections_allowed` nobody is let in.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0
MAX_HEAD = 64 * 1024
BODY_S = 60.0
TICKS = 4  # how often in BODY_S it is looked at
MIN_RATE = 1024  # bytes a second
MOST_CONNECTIONS = 4096


def connections_allowed() -> int:
    """Of one listener: three in four of the files that this process may open, at most MOST_CONNECTIONS."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, soft * 3 // 4)


class TooLarge(Exception):
    """Headers of more than MAX_HEAD bytes: the parser makes a 400 of it."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `_head` counts what its headers have taken; `_timer` runs while something is awaited of
    the client."""

    head_s = HEAD_S
    body_s = BODY_S
    most = 0  # connections; 0: connections_allowed()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0
        self._stalled = 0
        self._moved = False
        self._in_body = False
        self._arrived = 0
        self._slow = 0
        self._timer: asyncio.TimerHandle | None = None
        self._upgraded = False  # a WebSocket has the connection, and pings of its own

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= (self.most or connections_allowed()):
            transport.abort()
            return
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self.transport is not None:  # not one that was turned away
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            return
        self._moved = False
        self._arrived += len(data)
        super().data_received(data)
        if self._upgraded:
            return self._stop_timer()
        self._stalled = 0 if self._moved else self._stalled + len(data)
        if self._stalled > MAX_HEAD:  # a header or a trailer without an end
            self._cut_off()
        elif self._timer is None and self._between_requests() and self.timeout_keep_alive_task is None:
            self._await_head()

    # What the parser has found.

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._moved = True
        self._stop_timer()
        super().on_headers_complete()
        self._in_body, self._arrived, self._slow = True, 0, 0
        self._timer = self.loop.call_later(self.body_s / TICKS, self._look_at_body)

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._moved, self._in_body = True, False
        self._stop_timer()
        super().on_message_complete()

    def _grow(self, count: int) -> None:
        self._moved = True
        self._head += count
        if self._head > MAX_HEAD:
            raise TooLarge

    def handle_websocket_upgrade(self) -> None:
        """The WebSocket library reads the request once more, and answers nothing where it finds one of its
        own bounds passed: that is said here."""
        from websockets.http11 import (
            MAX_LINE_LENGTH,
            MAX_NUM_HEADERS,
        )  # not for who has none: the data process

        # "GET " + url + " HTTP/1.1\r\n"; name + ": " + value + "\r\n"
        lines = [len(self.url) + 15, *(len(name) + len(value) + 4 for name, value in self.headers)]
        if max(lines) > MAX_LINE_LENGTH:
            self.send_400_response(f"A line of a WebSocket's request may take {MAX_LINE_LENGTH} bytes.")
        elif len(self.headers) > MAX_NUM_HEADERS:
            self.send_400_response(f"A WebSocket's request may have {MAX_NUM_HEADERS} headers.")
        else:
            self._upgraded = True
            super().handle_websocket_upgrade()

    # Time.

    def _between_requests(self) -> bool:
        return not self._in_body and (self.cycle is None or self.cycle.response_complete)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self._between_requests():
            self._cut_off()

    def _look_at_body(self) -> None:
        self._timer = None
        if not self.flow.read_paused:
            slow = self._arrived < MIN_RATE * self.body_s / TICKS
            self._slow = self._slow + 1 if slow else 0
        self._arrived = 0
        if self._slow >= TICKS:
            self._cut_off()
        else:
            self._timer = self.loop.call_later(self.body_s / TICKS, self._look_at_body)

    def _cut_off(self) -> None:
        self._stop_timer()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
