"""uvicorn as both processes use it: signals are the coordinator's, and nothing wakes up when all is quiet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Generator
from typing import Any

import uvicorn

from tidemill.server.guard import GuardedProtocol
from tidemill.server.ports import BACKLOG

MAX_MESSAGE = 1 << 20  # bytes of one of a WebSocket's
# What uvicorn logs as an error of every upgrade that is refused with an answer of its own.
_REFUSED_UPGRADE = "ASGI callable returned without completing handshake."


def _worth_logging(record: logging.LogRecord) -> bool:
    return record.msg != _REFUSED_UPGRADE


def configure(
    app: Any, *, grace_s: int, tls: ssl.SSLContext | None = None, websockets: bool = False
) -> uvicorn.Config:
    """`grace_s`: how long open requests get at a stop."""
    logging.getLogger("uvicorn.error").addFilter(_worth_logging)
    return uvicorn.Config(
        app,
        loop="none",
        http=GuardedProtocol,
        ws="websockets-sansio" if websockets else "none",  # it holds back a peer that sends too fast
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,  # it would need a timer
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=grace_s,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )


class Listener(uvicorn.Server):
    """Serves from `start` to `stop`; uvicorn's own loop would wake up ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, sockets: list[socket.socket]) -> None:
        """Returns once it accepts connections; raises what kept it from that."""
        self._task = asyncio.create_task(self.serve(sockets), name="listener")
        while not self.started:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Accepts no more, and returns when the open requests have ended or their time is over."""
        self.should_exit = True
        self._ended.set()
        if self._task is not None:
            await self._task

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is None or cycle.response_complete:  # idle: no farewell that the peer must answer
                connection.transport.abort()  # type: ignore[union-attr]
        await super().shutdown(sockets)
