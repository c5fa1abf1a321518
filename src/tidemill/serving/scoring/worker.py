"""A worker process: loads the script or the model, then answers the connections it is given."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import signal
import socket
import sys
import time
from typing import Any

from . import jsonio, loaders, models, script, shared, state, swagger
from .app import App
from .connection import Connection
from .cors import Cors
from .log import AccessLog, Log, write
from .request import Request
from .scorers import Batched, Concurrent, Inline, Pulse, Scorer
from .script import Target
from .settings import Settings
from .shared import Board, Channel
from .v2 import V2

NOT_READY = 3  # exit code


def main(settings: Settings, board: Board, index: int, channel: Channel, log: Log) -> int:
    """-> exit code. What failed is told through the channel, its traceback through the log."""
    _prepare(settings)
    try:
        target, model = _load(settings, log)
        loop = _new_loop(log)
        serving = Serving(settings, board, index, channel, log, target, model, loop)
        serving.warm_up()
    except script.Failed as failed:
        return _say_failed(channel, log, failed.stage, failed.error)
    except Exception as error:
        return _say_failed(channel, log, "config", error)
    gc.collect()
    gc.freeze()  # what is loaded now stays: not looked through again
    return serving.run()


def _prepare(settings: Settings) -> None:
    sys.path.append(settings.app_root)
    if settings.source_dir:
        sys.path.append(os.path.join(settings.app_root, settings.source_dir))
    if settings.side:
        sys.path.append(settings.side)
        _look_again_for_orjson()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def _load(settings: Settings, log: Log) -> tuple[Target, models.Model | None]:
    """An entry script wins over a model. Raises script.Failed, script.NotUsable."""
    started = time.monotonic()
    if settings.entry_script or (not settings.model and _has_main(settings)):
        found = script.load(settings)
        log.info("%s: init() took %.2f s; run() %s", found.name, time.monotonic() - started, found.kind)
        return found, None
    path, kind = models.find(settings)
    try:
        model = models.Model(loaders.name_of(path), loaders.load(path, kind))
    except script.NotUsable:
        raise
    except BaseException as error:
        raise script.Failed("model", error) from error
    joins = "requests that wait are joined" if model.many else "requests are not joined"
    log.info("%s: a model of %s, loaded in %.2f s; %s", path, kind, time.monotonic() - started, joins)
    return model, model


def _has_main(settings: Settings) -> bool:
    return os.path.isfile(os.path.join(settings.app_root, "main.py"))


def _say_failed(channel: Channel, log: Log, stage: str, error: BaseException) -> int:
    told = state.failure(stage, error)
    if isinstance(error, script.NotUsable):
        log.error("%s", error)
        told["traceback"] = ""
    else:
        write(told["traceback"])
        log.error("%s failed: %s: %s", "init()" if stage == "init" else stage, told["type"], told["message"])
    channel.socket.setblocking(True)
    channel.send(shared.FAILED, payload=json.dumps(told).encode())
    return NOT_READY


def _new_loop(log: Log) -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        log.info("uvloop cannot be imported: answers are slower, on Python's own event loop")
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


class Serving:
    """What the connections of a worker share."""

    def __init__(
        self,
        settings: Settings,
        board: Board,
        index: int,
        channel: Channel,
        log: Log,
        target: Target,
        model: models.Model | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.states = board.states
        self.max_body = settings.max_body
        self.connections: set[Connection] = set()
        self.reading: set[Connection] = set()
        self.draining = False
        self.pulse = Pulse(board, index, settings.workers > 1)
        version = settings.server_version
        self.headers = f"x-ms-server-version: {version}\r\n" if version else ""
        self.access: AccessLog | None = AccessLog(loop.call_later) if log.wants_requests() else None
        self.scorer = _scorer(settings, target, self.pulse, log, loop)
        v2 = V2(target.name, model, lambda: self.scorer)
        self.app = App(self.scorer, swagger.of(settings, target, log), v2, Cors(settings.cors_origins))
        self.has_cors = bool(settings.cors_origins)
        self._channel = channel
        self._log = log
        self._loop = loop
        self._swept = 0.0
        self._warmup = settings.warmup

    def warm_up(self) -> None:
        """Raises script.Failed."""
        if not self._warmup:
            return
        started = time.monotonic()
        try:
            with open(self._warmup, "rb") as file:
                body = file.read()
            from .http import Head

            target = self.scorer.target
            head = Head("POST", "/score", 1, {"content-type": "application/json", "host": "localhost"})
            result = target.one(target.read(Request(head, body)))
            if hasattr(result, "__await__"):
                self._loop.run_until_complete(result)
        except BaseException as error:
            raise script.Failed("warmup", error) from error
        self._log.info("warmed up with %s in %.2f s", self._warmup, time.monotonic() - started)

    def run(self) -> int:
        loop = self._loop
        loop.add_reader(self._channel.fileno(), self._hear)
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        self._channel.send(shared.READY)
        name = type(loop).__module__.partition(".")[0]
        self._log.info("worker %s is ready (%s, %s)", os.getpid(), name, jsonio.NAME)
        loop.run_forever()
        if self.access is not None:
            self.access.flush()
        return 0

    def tell(self, kind: int, slot: int) -> None:
        """The supervisor reads all the time; where its buffer is full we wait for it."""
        if not self._channel.send(kind, slot):
            self._channel.socket.setblocking(True)
            self._channel.send(kind, slot)
            self._channel.socket.setblocking(False)

    def _hear(self) -> None:
        try:
            while True:
                heard = self._channel.receive()
                if heard is None:
                    return
                kind, slot, _, descriptor = heard
                if kind == shared.GIVE and descriptor < 0:
                    self.tell(shared.CLOSED, slot)  # it got lost: we have no descriptor left
                elif kind == shared.GIVE:
                    self._take(descriptor, slot)
                elif kind == shared.DRAIN:
                    self._drain()
        except EOFError:
            self._loop.remove_reader(self._channel.fileno())
            self._log.error("the supervisor is gone")
            self._loop.stop()

    def _take(self, descriptor: int, slot: int) -> None:
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        connection = Connection(self, sock, slot)
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: connection, sock))
        task.add_done_callback(_retrieved)

    def give_back_idle(self) -> None:
        for connection in list(self.connections):
            connection.give_back_if_idle()

    # -- requests that are still arriving

    def reads(self, connection: Connection) -> None:
        if not self.reading:
            self._swept = time.monotonic()
            self._loop.call_later(1.0, self._sweep)
        self.reading.add(connection)

    def _sweep(self) -> None:
        now = time.monotonic()
        paused, self._swept = max(0.0, now - self._swept - 1.1), now
        for connection in list(self.reading):
            connection.late(now, paused)
        if self.reading:
            self._loop.call_later(1.0, self._sweep)

    # -- ends

    def hung_up(self, connection: Connection) -> None:
        if isinstance(self.scorer, Concurrent):
            self.scorer.gone(connection)

    def stream_ended(self) -> None:
        if isinstance(self.scorer, Inline):
            self.scorer.stream_ended()

    def _drain(self) -> None:
        if self.draining:
            return
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        self._stop_when_empty()

    def _stop_when_empty(self) -> None:
        if any(not connection.gone for connection in self.connections):
            self._loop.call_later(0.02, self._stop_when_empty)
        else:
            self._loop.call_soon(self._loop.stop)


def _scorer(
    settings: Settings, target: Target, pulse: Pulse, log: Log, loop: asyncio.AbstractEventLoop
) -> Scorer:
    common = target, pulse, log, settings.scoring_timeout_ms, loop
    if target.is_async:
        return Concurrent(*common)
    if target.many is not None and settings.batch_size > 1:
        return Batched(*common, size=settings.batch_size, wait_s=settings.batch_wait_ms / 1000)
    return Inline(*common)


def _retrieved(task: asyncio.Task[Any]) -> None:
    """A peer that went before we looked is nothing to tell."""
    if not task.cancelled():
        task.exception()


def _look_again_for_orjson() -> None:
    if jsonio.orjson is None:
        import importlib

        importlib.reload(jsonio)
