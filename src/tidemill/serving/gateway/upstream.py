"""A connection to an instance: one request after another, each with its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from tidemill.serving.gateway.http1 import (
    CHUNKED,
    HEAD_LIMIT,
    LAST_CHUNK,
    UNTIL_CLOSE,
    Answer,
    Broken,
    Chunks,
    Refused,
    chunk,
)
from tidemill.serving.gateway.likeness import MISSES, Likeness

if TYPE_CHECKING:
    from tidemill.serving.gateway.dispatch import Dispatcher
    from tidemill.serving.gateway.exchange import Exchange
    from tidemill.serving.gateway.live import Instance

JOINED = 64 << 10  # a body up to this is sent in one piece with its head
_OK = b"HTTP/1.1 200 OK\r\n"
_MODEL_ERROR = b"HTTP/1.1 424 Failed Dependency\r\n"
_NOT_READY = b"x-tidemill-not-ready:"  # of a scoring server that has not looked at the request
_AWAITED = -3  # the length of an answer whose head has not come


class Memo:
    """An answer's head of a connection: most that follow are like it, or the same as the last one."""

    __slots__ = ("_answer", "_block", "_last", "_likeness", "_method", "_same")

    def __init__(self, block: bytes, method: bytes, answer: Answer) -> None:
        self._block = block
        self._method = method
        self._likeness: Likeness | None = None
        self._answer = answer
        self._last, self._same = block, answer

    @staticmethod
    def fits(method: bytes, answer: Answer) -> bool:
        """Not what answers a HEAD: its Content-Length is no length of what follows."""
        return answer.status == 200 and answer.length >= 0 and method != b"HEAD"

    def read(self, block: bytes, method: bytes) -> Answer | None:
        """None: it is to be read in full."""
        if method != self._method:
            return None
        if block == self._last:
            return self._same
        if self._likeness is None:
            self._likeness = self._answer.likeness(self._block)
        answer = self._answer.alike(self._likeness, block)
        if answer is not None:
            self._last, self._same = block, answer
        return answer


class Upstream(asyncio.Protocol):
    def __init__(self, dispatcher: Dispatcher, instance: Instance) -> None:
        self._dispatcher = dispatcher
        self.instance = instance
        self.transport = cast(asyncio.Transport, None)
        self.exchange: Exchange | None = None
        self.reused = False
        self.idle_since = 0.0
        self._buffer = b""
        self._left = _AWAITED
        self._chunks: Chunks | None = None
        self._sent = True  # all of the request
        self._keeps = True
        self._is_tunnel = False
        self._memo: Memo | None = None
        self._misses = 0  # heads in a row that were not like the one before

    # --- what the dispatcher and the caller do with it

    def send(self, exchange: Exchange) -> None:
        self.exchange = exchange
        exchange.upstream = self
        self._left = _AWAITED
        self._sent = exchange.whole
        if exchange.whole:
            body = exchange.body
            if len(body) <= JOINED:
                self.transport.write(exchange.head + body)
            else:
                self.transport.write(exchange.head)
                self.transport.write(body)
            return
        self.transport.write(exchange.head)
        body, exchange.body = exchange.body, b""
        self.send_body(body, False)
        if self.exchange is exchange:
            exchange.caller.wants_body(exchange)

    def send_body(self, data: bytes, ended: bool) -> None:
        """More of a body that is sent on as it comes; in a tunnel, anything."""
        exchange = self.exchange
        if exchange is None or self.transport.is_closing():
            return
        if not self._is_tunnel and exchange.request.length == CHUNKED:
            data = (chunk(data) if data else b"") + (LAST_CHUNK if ended else b"")
        if data:
            self.transport.write(data)
        if ended:
            self._sent = True
            self._dispatcher.sent(exchange)

    def pause(self) -> None:
        self.transport.pause_reading()

    def resume(self) -> None:
        self.transport.resume_reading()

    def close(self) -> None:
        """Of one that is idle."""
        self._forget()
        self.transport.close()

    def abort(self) -> None:
        """The request is given up."""
        self.exchange = None
        self.transport.abort()

    # --- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.caller.hold_body(self.exchange)

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.caller.wants_body(self.exchange)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # nothing was asked
            self.close()
        elif self._left == _AWAITED:
            self._read_head(exchange, data)
        elif self._is_tunnel:
            exchange.size += len(data)
            exchange.caller.answer(exchange, data, False)
        else:
            self._read_body(exchange, b"", data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if self._is_tunnel:
            exchange.keep_alive = False
            exchange.caller.answer(exchange, b"", True)
            self._dispatcher.finish(exchange)
        elif self._left == UNTIL_CLOSE and exc is None:
            exchange.caller.answer(exchange, LAST_CHUNK if exchange.request.version else b"", True)
            self._dispatcher.finish(exchange)
        else:
            self._dispatcher.lost(exchange, self.reused, exc)

    def _forget(self) -> None:
        if self in self.instance.idle:
            self.instance.idle.remove(self)

    # --- the answer

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(data) > HEAD_LIMIT:
                return self._broken(exchange, f"its headers are longer than {HEAD_LIMIT} bytes")
            self._buffer = data
            return None
        block, method = data[:end], exchange.request.method
        memo = self._memo
        answer = memo.read(block, method) if memo is not None else None
        if answer is not None:
            self._misses = 0
        else:
            try:
                answer = Answer(block, method)
            except Broken as error:
                return self._broken(exchange, str(error))
            self._misses += 1
            fits = self._misses <= MISSES and Memo.fits(method, answer)
            self._memo = Memo(block, method, answer) if fits else None
        if answer.status < 200:
            return self._interim(exchange, answer, data[end:])
        if answer.status == 503 and exchange.whole and _NOT_READY in answer.fields.lower():
            self.abort()
            return self._dispatcher.not_ready(exchange)
        exchange.answered = True
        exchange.status = answer.status
        self._keeps = answer.keep_alive
        length = self._left = answer.length
        if length == CHUNKED:
            self._chunks = Chunks()
        head = _head_of(exchange, answer)
        if length == len(data) - end:
            exchange.size = length
            exchange.caller.answer(exchange, head + data[end:], True)
            return self._ended(exchange)
        return self._read_body(exchange, head, data[end:])

    def _interim(self, exchange: Exchange, answer: Answer, rest: bytes) -> None:
        """100 and its kin are for us, not for the caller. 101 makes a tunnel, where one was asked for."""
        if answer.status != 101:
            if rest:
                self._read_head(exchange, rest)
            return
        if not exchange.request.upgrade:
            return self._broken(exchange, "it changes the protocol unasked")
        exchange.answered, exchange.status, exchange.deadline = True, 101, 0.0
        self._is_tunnel, self._left = True, UNTIL_CLOSE
        upgrade = b"Connection: Upgrade\r\nUpgrade: " + exchange.request.upgrade + b"\r\n"
        head = b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade + answer.fields
        exchange.caller.tunnel(exchange, head + exchange.deployment.header + b"\r\n" + rest)

    def _read_body(self, exchange: Exchange, head: bytes, data: bytes) -> None:
        exchange.deadline = self._dispatcher.deadline(exchange)  # of the next piece
        chunked = exchange.request.version == 1
        ended = False
        if self._chunks is not None:
            try:
                pieces, rest = self._chunks.feed(data)
            except Refused as error:
                return self._broken(exchange, error.message)
            data = b"".join(pieces)
            ended = self._chunks.done
            self._keeps = self._keeps and not rest
        elif self._left == UNTIL_CLOSE:
            pass
        else:
            chunked = False
            if len(data) > self._left:
                data, self._keeps = data[: self._left], False
            self._left -= len(data)
            ended = not self._left
        exchange.size += len(data)
        if chunked:
            data = (chunk(data) if data else b"") + (LAST_CHUNK if ended else b"")
        if head or data or ended:
            exchange.caller.answer(exchange, head + data, ended)
        if ended and self.exchange is exchange:
            self._ended(exchange)
        return None

    def _ended(self, exchange: Exchange) -> None:
        self.exchange = None
        self._chunks = None
        if self._keeps and self._sent and not self.transport.is_closing():
            self.reused = True
            self._dispatcher.idle(self)
        else:
            self.transport.abort()
        self._dispatcher.finish(exchange)

    def _broken(self, exchange: Exchange, why: str) -> None:
        self.abort()
        self._dispatcher.fail(exchange, 502, "BadGateway", f"The instance's answer is no HTTP: {why}.")


def _head_of(exchange: Exchange, answer: Answer) -> bytes:
    """As the caller gets it. As in Azure, an error of the model is told from one of the gateway."""
    status = answer.status
    lines = exchange.deployment.header
    if status == 200:
        first = _OK
    elif status >= 400:
        first = _MODEL_ERROR
        exchange.status = 424
        lines += b"ms-azureml-model-error-statuscode: %d\r\n" % status
        lines += b"ms-azureml-model-error-reason: " + (answer.reason or b"model_error") + b"\r\n"
    else:
        first = b"HTTP/1.1 %d %b\r\n" % (status, answer.reason)
    if answer.length < 0:
        if exchange.request.version:
            lines += b"Transfer-Encoding: chunked\r\n"
        else:
            exchange.keep_alive = False
    if not exchange.keep_alive:
        lines += b"Connection: close\r\n"
    elif not exchange.request.version:
        lines += b"Connection: keep-alive\r\n"
    return first + answer.fields + lines + b"\r\n"
