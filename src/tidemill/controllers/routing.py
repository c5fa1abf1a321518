"""The route table for the gateway: written whole when a row that it is made of has changed; and what the
gateway says of itself.

The gateway connects to the socket `serving/control.sock` of the home and writes lines of JSON:
{"version": of the table it serves, "in_flight": {instance uid: requests}, "held": {deployment uid: requests},
"deployments": {deployment uid: {"rate", "in_flight", "last_at"}}}. Each line holds for all that it names;
instances that are not named have nothing in flight.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import msgspec

from tidemill.app.rows.codec import encode
from tidemill.app.services import Services
from tidemill.app.serving import routes
from tidemill.app.serving_metrics import read_report
from tidemill.domain.serving.routes import FILE, FOLDER, SOCKET, Backend, Table

log = logging.getLogger("tidemill.routing")

AGAIN_S = 1.0
PATIENCE_S = 10.0  # for a gateway that does not say what it serves
MAX_LINE = 1 << 20

_decode = msgspec.json.Decoder(Table)


class Routing:
    """A `deployments.Router`. `on_news` is called when the gateway has said something new."""

    def __init__(self, services: Services) -> None:
        self._s = services
        self._folder = services.settings.home / FOLDER
        self._table = Table()
        self._dirty = asyncio.Event()
        self._writing = False
        self._moved = asyncio.Event()  # replaced with each step of the table on its way
        self._written_at = 0.0  # of the loop's clock
        self._served = 0
        self._in_flight: dict[str, int] = {}
        self._gateway: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.on_news: Callable[[], None] = lambda: None
        self.on_report: Callable[[dict[str, Any]], None] = lambda _: None

    async def start(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(OSError, msgspec.DecodeError):
            self._table = _decode.decode((self._folder / FILE).read_bytes())
        await self._listen()
        self._dirty.set()
        self._task = asyncio.create_task(self._run(), name="routing")

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._gateway is not None:
            self._gateway.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- what others ask

    def changed(self) -> None:
        self._dirty.set()

    @property
    def connected(self) -> bool:
        return self._gateway is not None

    def is_current(self, backend: Backend) -> bool:
        """Where no gateway runs, or it says nothing for long, nobody is waited for."""
        there = any(one == backend for endpoint in self._table.endpoints for one in endpoint.deployments)
        return there and self._acknowledged

    def is_quiet(self, instance_uid: str) -> bool:
        there = any(
            one.uid == instance_uid
            for endpoint in self._table.endpoints
            for backend in endpoint.deployments
            for one in backend.instances
        )
        return not there and self._acknowledged and not self._in_flight.get(instance_uid)

    async def settled(self) -> None:
        """Returns once the gateway serves by all that was committed before this was called, or says nothing
        for PATIENCE_S."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while self._dirty.is_set() or self._writing or not self._acknowledged:
                    await self._moved.wait()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    @property
    def _acknowledged(self) -> bool:
        return self._served >= self._table.version or not self.connected or self._late()

    def _late(self) -> bool:
        return asyncio.get_running_loop().time() - self._written_at > PATIENCE_S

    # --- the table

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            try:
                await self._write()
            except Exception:
                log.exception("the route table could not be written; again in %s s", AGAIN_S)
                self._dirty.set()
                await asyncio.sleep(AGAIN_S)
                continue
            self.on_news()
            if not self._dirty.is_set() and self.connected and self._served < self._table.version:
                asyncio.get_running_loop().call_later(PATIENCE_S + 0.1, self.on_news)

    async def _write(self) -> None:
        self._writing = True
        self._dirty.clear()
        try:
            now = self._s.clock.now()
            endpoints = await self._s.store.read(lambda read: routes.endpoints(read, now))
            if endpoints != self._table.endpoints or not (self._folder / FILE).exists():
                table = Table(self._table.version + 1, endpoints)
                await asyncio.to_thread(_replace, self._folder / FILE, encode(table))
                self._table = table
                self._written_at = asyncio.get_running_loop().time()
        except BaseException:
            self._dirty.set()
            raise
        finally:
            self._writing = False
            self._move()

    # --- the gateway

    async def _listen(self) -> None:
        """Bound relative to the directory: a home's path may be longer than a socket address."""
        directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            path = f"/proc/self/fd/{directory}/{SOCKET}"
            with suppress(FileNotFoundError):
                os.unlink(path)
            self._server = await asyncio.start_unix_server(self._hear, path, limit=MAX_LINE)
            os.chmod(self._folder / SOCKET, 0o600)
        finally:
            os.close(directory)

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        before, self._gateway = self._gateway, writer  # a new gateway takes over from the one before
        self._served, self._in_flight = 0, {}
        if before is not None:
            before.close()
        try:
            while line := await reader.readline():
                self._told(json.loads(line))
        except (OSError, ValueError, asyncio.LimitOverrunError) as error:
            log.warning("the gateway's report: %s", error)
        finally:
            writer.close()
            if self._gateway is writer:
                self._gateway, self._served, self._in_flight = None, 0, {}
                self._move()
                self._s.live.traffic = {}
                self.on_report({})  # what it held is no more
                self.on_news()

    def _told(self, said: Any) -> None:
        if not isinstance(said, dict):
            return
        report = cast(dict[str, Any], said)
        served = int(report.get("version", self._served))
        flight = cast(dict[str, Any], report.get("in_flight") or {})
        busy = {str(uid): int(count) for uid, count in flight.items() if count}
        news = served != self._served or busy.keys() != self._in_flight.keys()
        self._served, self._in_flight = served, busy
        self._move()
        self._s.live.traffic = read_report(report)
        self.on_report(report)
        if news:
            self.on_news()


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all, also through a power cut."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(part, path)
