"""One connection to one node's agent, on the running loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from tidemill.agent import protocol
from tidemill.engines.base import EngineError, InvalidTask, Unreachable, Unready

CALL_TIMEOUT_S = 10.0


class AgentLink(asyncio.Protocol):
    """Requests answered by id; events handed to `on_event`; `on_closed` once, when the connection ends."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None], on_closed: Callable[[], None]) -> None:
        self._on_event = on_event
        self._on_closed = on_closed
        self._decoder = protocol.Decoder()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next = 0
        self._transport: asyncio.Transport | None = None

    async def call(self, verb: str, wait_s: float = CALL_TIMEOUT_S, **fields: Any) -> dict[str, Any]:
        """The answer's body. Raises Unreachable, InvalidTask or EngineError with the agent's sentence."""
        if self._transport is None or self._transport.is_closing():
            raise Unreachable("the node's agent has closed the connection")
        self._next += 1
        number = self._next
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._transport.write(protocol.encode({"id": number, "verb": verb, **fields}))
        try:
            async with asyncio.timeout(wait_s):
                answer = await future
        except TimeoutError:
            raise Unreachable(f"the node's agent did not answer {verb!r} within {wait_s:g} s") from None
        finally:
            self._waiting.pop(number, None)
        if "ok" in answer:
            return answer["ok"]
        code, message = answer["error"]["code"], answer["error"]["message"]
        kinds = {"unknown_verb": EngineError, "starting": Unready}
        raise kinds.get(code, InvalidTask)(message)

    def close(self) -> None:
        """Lets go without `on_closed`."""
        self._on_closed = lambda: None
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # pyright: ignore[reportAttributeAccessIssue]

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except protocol.ProtocolError:
            if self._transport is not None:
                self._transport.abort()
            return
        for message in messages:
            if "event" in message:
                self._on_event(message["event"])
            elif (future := self._waiting.get(message.get("id", 0))) is not None and not future.done():
                future.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unreachable("the connection to the node's agent was lost"))
        self._on_closed()


async def attach(
    sock: socket.socket, on_event: Callable[[dict[str, Any]], None], on_closed: Callable[[], None]
) -> AgentLink:
    """Over a connection to an agent, which is the link's from here on. Raises Unreachable."""
    link = AgentLink(on_event, on_closed)
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=sock)
    except OSError as error:
        sock.close()
        raise Unreachable(f"the node's agent cannot be reached: {error}") from None
    return link
