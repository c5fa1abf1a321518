"""Lines that go on as a WebSocket: a process somewhere inside, a port's bytes, and what ends them.

The messages: domain/looking.py. Who, when and for how long is in the activity log; what passed never is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from tidemill.domain import looking
from tidemill.domain.activity import Outcome, Record
from tidemill.domain.errors import Conflict, InvalidRequest, TidemillError
from tidemill.engines.base import EngineError, Inside, TaskKey, Unready
from tidemill.wire.http import Context, Upgrade

BEGIN_S = 10.0  # for the first message
READY_S = 5.0  # for a sandbox that is just being made
DRAIN_S = 1.0  # for what a process wrote before it ended, where something in the background holds its output
CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody is, by which action, and what says whether they may stay (raises where not)."""

    action: str
    resource: str  # below the workspace
    check: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Talk:
    """One open line, and what ends it."""

    ctx: Context
    place: Place
    socket: WebSocket
    what: str
    began: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)  # when a byte passed

    async def hold(self, talk: Callable[[Talk], Awaitable[str]]) -> None:
        """Until `talk` returns how it ended, the client goes, or it may not go on."""
        await self.socket.accept()
        outcome, why = Outcome.SUCCEEDED, ""
        try:
            why = await first_of(talk(self), self._watch())
        except (WebSocketDisconnect, asyncio.CancelledError):
            why = "the client went"
            raise
        except (TidemillError, EngineError) as error:
            known = error if isinstance(error, TidemillError) else Conflict(str(error), "NotEntered")
            outcome, why = Outcome.FAILED, known.message
            await self.end({"error": {"code": known.code, "message": known.message}})
        finally:
            self._record(outcome, why)

    async def receive(self) -> str | bytes:
        """The next message. Raises WebSocketDisconnect."""
        message = await self.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        self.last = time.monotonic()
        data = message.get("bytes")
        return message["text"] if data is None else data

    async def send(self, data: bytes) -> None:
        self.last = time.monotonic()
        await self.socket.send_bytes(data)

    async def send_text(self, text: str) -> None:
        self.last = time.monotonic()
        await self.socket.send_text(text)

    async def tell(self, message: dict[str, Any]) -> None:
        await self.socket.send_text(json.dumps(message))

    async def end(self, message: dict[str, Any]) -> None:
        """The last message."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it has gone
            await self.tell(message)
            await self.socket.close()

    async def close(self) -> None:
        """Without a last message."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it has gone
            await self.socket.close()

    async def _watch(self) -> str:
        """Raises once the session may not go on."""
        while True:
            await asyncio.sleep(looking.CHECK_S)
            await self.place.check()
            late = looking.overdue(time.monotonic(), self.began, self.last)
            if late:
                raise Conflict(late, "SessionExpired")

    def _record(self, outcome: Outcome, why: str) -> None:
        ctx, took = self.ctx, time.monotonic() - self.began
        ctx.services.activity.record(
            Record(
                at=ctx.services.clock.now(),
                action=self.place.action,
                outcome=outcome,
                actor=ctx.caller.oid,
                actor_name=ctx.caller.name,
                actor_kind=ctx.caller.kind,
                address=ctx.request.address,
                scope=ctx.scope.arm_id,
                resource=f"{ctx.scope.arm_id}/{self.place.resource}",
                method="END",
                assignment="" if ctx.decision.assignment is None else ctx.decision.assignment.id,
                reason=f"{self.what} ended after {took:.1f} s: {why or 'it was broken off'}"[:500],
            )
        )


async def held(talk: Talk, node_id: str, task: TaskKey, wanted: looking.Begin) -> int | None:
    """From its start to its end. -> its exit code, None where it was killed."""
    inside = await entered(talk, node_id, task, wanted)
    try:
        await inside.started()
        return await first_of(_outgoing(talk, inside), _incoming(talk, inside))
    finally:
        inside.close()


async def session(talk: Talk, node_id: str, task: TaskKey, what: str, gone: str) -> str:
    """A process inside a task, from the first message on -> how it ended. `what`: "job" or "container";
    `gone`: the code that is told where it ended first."""
    exit_code = await held(talk, node_id, task, await wanted_of(talk))
    if exit_code is None:
        message = f"The {what} has ended, and this with it."
        await talk.end({"error": {"code": gone, "message": message}})
        return f"the {what} ended"
    await talk.end({"exit": exit_code})
    return f"exit code {exit_code}"


async def wanted_of(talk: Talk) -> looking.Begin:
    """The first message."""
    try:
        async with asyncio.timeout(BEGIN_S):
            first = await talk.receive()
    except TimeoutError:
        raise InvalidRequest(f"No first message came within {BEGIN_S:g} s.") from None
    if not isinstance(first, str):
        raise InvalidRequest("The first message must be text: what to run.")
    return looking.begin(first)


async def entered(talk: Talk, node_id: str, task: TaskKey, wanted: looking.Begin) -> Inside:
    until = time.monotonic() + READY_S
    while True:
        try:
            return await talk.ctx.services.engine.enter(
                node_id, task, wanted.command, wanted.size, wanted.term
            )
        except Unready:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.05)


async def _outgoing(talk: Talk, inside: Inside) -> int | None:
    """What it writes, then its exit code."""
    lines = [asyncio.create_task(_copy(talk, inside, stream)) for stream in (1, 2)]
    try:
        code = await inside.wait()
        done, _ = await asyncio.wait(lines, timeout=DRAIN_S)
        for line in done:
            line.result()
        return code
    finally:
        for line in lines:
            line.cancel()


async def _copy(talk: Talk, inside: Inside, stream: int) -> None:
    while data := await inside.read(stream):
        await talk.send(bytes((stream,)) + data)


async def write_to(inside: Inside, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # it reads no more; it may still write
        await inside.write(data)


async def _incoming(talk: Talk, inside: Inside) -> int | None:
    while True:
        message = await talk.receive()
        if isinstance(message, bytes):
            await write_to(inside, message)
            continue
        match looking.control(message):
            case looking.Resize(rows, columns):
                inside.resize(rows, columns)
            case looking.EndOfInput():
                inside.close_input()


async def to_port(ctx: Context, place: Place, node_id: str, task: TaskKey, port: int) -> Upgrade:
    """The bytes of one connection to a port of the task's loopback. Raises Conflict."""
    try:
        sock = await ctx.services.engine.dial(node_id, task, port)
    except EngineError as error:
        raise Conflict(str(error), "PortNotReached", str(port)) from error

    async def talk(socket: WebSocket) -> None:
        try:
            await Talk(ctx, place, socket, f"port {port}").hold(lambda talk: _port_bytes(talk, sock))
        finally:
            sock.close()

    return Upgrade(talk)


async def _port_bytes(talk: Talk, sock: socket.socket) -> str:
    reader, writer = await asyncio.open_connection(sock=sock)

    async def outgoing() -> None:
        while data := await reader.read(CHUNK):
            await talk.send(data)
        await talk.tell({"end": True})

    async def incoming() -> None:
        while True:
            message = await talk.receive()
            if isinstance(message, bytes):
                writer.write(message)
                await writer.drain()
            elif isinstance(looking.control(message), looking.EndOfInput):
                if writer.can_write_eof():
                    writer.write_eof()
                return

    try:
        await _all(outgoing(), incoming())
    except OSError:
        pass
    finally:
        writer.close()
    await talk.end({"end": True})
    return "closed"


async def first_of(*work: Awaitable[Any]) -> Any:
    """The result of whichever ends first; the others are canceled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        await _canceled(tasks)


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    """Until all have ended; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _canceled(tasks)


async def _canceled(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
