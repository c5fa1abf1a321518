"""The line to control: what the gateway serves and does, as lines of JSON on a socket of the home. Control
may be away; then it is tried again, and requests go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidemill.domain.serving.routes import SOCKET

EVERY_S = 0.1  # at most, unless it is urgent
AGAIN_S = 0.1  # between attempts to reach control


class BackChannel:
    """`report()` gives what is to be told. `news` may be called at any time."""

    def __init__(self, folder: Path, report: Callable[[], dict[str, Any]]) -> None:
        self._folder = folder
        self._report = report
        self._urgent = asyncio.Event()
        self._news = asyncio.Event()
        self._said: dict[str, Any] | None = None

    def news(self, urgent: bool) -> None:
        self._news.set()
        if urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            with contextlib.suppress(OSError):
                await self._talk(await self._connected())
            await asyncio.sleep(AGAIN_S)

    async def _connected(self) -> socket.socket:
        """By the directory's descriptor: a home's path may be longer than a socket address."""
        directory = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.setblocking(False)
            await asyncio.get_running_loop().sock_connect(link, f"/proc/self/fd/{directory}/{SOCKET}")
            return link
        except BaseException:
            link.close()
            raise
        finally:
            os.close(directory)

    async def _talk(self, link: socket.socket) -> None:
        """Returns when control has closed the line."""
        reader, writer = await asyncio.open_unix_connection(sock=link)
        gone = asyncio.ensure_future(reader.read())  # control says nothing: this ends with the line
        self._said = None
        try:
            while not gone.done():
                self._urgent.clear()
                self._news.clear()
                report = self._report()
                if report != self._said:
                    self._said = report
                    writer.write(json.dumps(report).encode() + b"\n")
                    await writer.drain()
                await _first(gone, self._news)
                if not gone.done():
                    await _first(gone, self._urgent, EVERY_S)
        finally:
            gone.cancel()
            writer.close()


async def _first(gone: asyncio.Future[bytes], event: asyncio.Event, seconds: float | None = None) -> None:
    """Returns when the event is set, the line is gone, or time has passed."""
    waits = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([gone, waits], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waits.cancel()
