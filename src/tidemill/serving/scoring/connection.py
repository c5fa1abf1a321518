"""One connection in a worker: bytes in, requests to the application one after another, answers out."""

from __future__ import annotations

import asyncio
import collections.abc
import time
from typing import TYPE_CHECKING, Any, cast

from . import answers, shared
from .answers import Answer
from .http import HEAD_LIMIT, Body, Head, Refused, parse_head, status_line
from .request import Request, identity_headers

if TYPE_CHECKING:
    import socket

    from .worker import Serving

BUFFER_LIMIT = 256 << 10  # of bytes that came before they are wanted
JOINED = 64 << 10  # a body up to this is sent in one piece with its head
HEAD_S = 20.0
BODY_S, BODY_RATE = 30.0, 4 << 10  # a body may take BODY_S, and a second more for each BODY_RATE bytes
BODILESS = (204, 304)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    def __init__(self, serving: Serving, sock: socket.socket, slot: int) -> None:
        self._serving = serving
        self._states = serving.states
        self._sock = sock
        self._slot = slot
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._buffer = b""
        self._head: Head | None = None
        self._body: Body | None = None
        self._size = 0  # bytes of this request
        self._since = 0.0  # when its first byte came
        self._request: Request | None = None  # the one that is being answered
        self._ids = ""
        self._keep_alive = True
        self._ended = False  # the peer sends no more
        self._flushed: asyncio.Future[None] | None = None
        self._handed_back = False
        self.gone = False

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self._serving.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._serving.connections.discard(self)
        self._serving.reading.discard(self)
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)
        if self._handed_back:
            return
        if self._request is not None:
            self._serving.hung_up(self)
        self._states[self._slot] = shared.IDLE
        self._serving.tell(shared.CLOSED, self._slot)

    def eof_received(self) -> bool:
        """A peer that only closes its side still gets the answer it waits for."""
        self._ended = True
        return self._request is not None

    def pause_writing(self) -> None:
        self._flushed = asyncio.get_event_loop().create_future()

    def resume_writing(self) -> None:
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)
        self._flushed = None

    def data_received(self, data: bytes) -> None:
        if self._request is not None:  # sent before its turn
            self._buffer += data
            if len(self._buffer) > BUFFER_LIMIT:
                self._transport.pause_reading()
            return
        self._states[self._slot] = shared.ASKED
        try:
            self._read(data)
        except Refused as error:
            self._refuse(error)

    # -- reading

    def _read(self, data: bytes) -> None:
        """Raises Refused."""
        if self._body is None:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._wait_for_head(data)
                return
            end += 4
            if end > HEAD_LIMIT:
                raise Refused(431, f"The request's headers are longer than {HEAD_LIMIT} bytes.")
            head = parse_head(data[:end])
            if head.length == len(data) - end <= self._serving.max_body:
                self._serve(Request(head, data[end:]))
                return
            self._head, self._size = head, 0
            self._body = Body(head.length, self._serving.max_body)
            data = data[end:]
            if head.expects and not data:
                self._sock.send(_CONTINUE)
        body = self._body
        self._size += len(data)
        rest = body.feed(data)
        if not body.done:
            self._wait()
            return
        request = Request(cast(Head, self._head), body.bytes())
        self._head = self._body = None
        self._buffer = rest
        self._serve(request)

    def _wait_for_head(self, data: bytes) -> None:
        while data[:2] == b"\r\n":  # some clients end a body with a line of its own
            data = data[2:]
        if len(data) > HEAD_LIMIT:
            raise Refused(431, f"The request's headers are longer than {HEAD_LIMIT} bytes.")
        self._buffer = data
        if data:
            self._wait()
        else:
            self._states[self._slot] = shared.IDLE

    def _wait(self) -> None:
        if self not in self._serving.reading:
            self._since = time.monotonic()
            self._serving.reads(self)

    def late(self, now: float, paused: float) -> None:
        """Called each second while a request arrives; `paused`: how long the worker itself read nothing."""
        self._since += paused
        taken = now - self._since
        if self._body is None:
            if taken > HEAD_S:
                self._refuse(Refused(408, f"The request's headers did not arrive within {HEAD_S:g} s."))
        elif taken > BODY_S + self._size / BODY_RATE:
            text = f"The body came too slowly: {self._size} bytes in {taken:.0f} s."
            self._refuse(Refused(408, text))

    def _serve(self, request: Request) -> None:
        """Raises Refused."""
        self._serving.reading.discard(self)
        self._keep_alive = request.head.keep_alive and not self._serving.draining
        self._request = request
        self._ids = ""
        self._since = time.monotonic()
        self._ids = identity_headers(request)
        self._serving.app.serve(self, request)

    def _refuse(self, error: Refused) -> None:
        """Of a request that was read whole only this is refused; else nothing after it can be understood."""
        self._serving.reading.discard(self)
        whole = self._request is not None
        self._keep_alive = self._keep_alive and whole
        request = self._request or Request(Head("GET", "/", 1, {}), b"")
        if not whole:
            request.method = "-"
            self._request, self._since = request, time.monotonic()
        self.reply(request, answers.error(error.status, error.message))
        if not whole and not self.gone and not self._handed_back:
            self._give(shared.LINGER)

    # -- answering

    def reply(self, request: Request, answer: Answer) -> None:
        if self.gone or request is not self._request:
            return
        if answer.stream is not None:
            asyncio.get_event_loop().create_task(self._stream(request, answer))
            return
        body = b"" if answer.status in BODILESS else answer.body
        length = "" if answer.status in BODILESS else f"Content-Length: {len(body)}\r\n"
        head = self._head_of(request, answer, length)
        self._states[self._slot] = shared.ANSWERING
        if request.method == "HEAD":
            body = b""
        if len(body) <= JOINED:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)
        self._told(request, answer, len(body))
        if self._flushed is None:
            self._answered()
        else:
            asyncio.get_event_loop().create_task(self._answered_when_flushed())

    def _head_of(self, request: Request, answer: Answer, length: str) -> bytes:
        serving = self._serving
        text = status_line(answer.status) + serving.headers + self._ids + answer.headers + length
        if answer.kind:
            text += f"Content-Type: {answer.kind}\r\n"
        if answer.run_ms is not None:
            text += f"x-ms-run-fn-exec-ms: {answer.run_ms:.3f}\r\n"
        if serving.has_cors:
            text += serving.app.cors.headers(request)
        if not self._keep_alive:
            text += "Connection: close\r\n"
        elif request.head.version == 0:
            text += "Connection: keep-alive\r\n"
        return (text + "\r\n").encode("latin-1", "replace")

    def _write(self, data: bytes) -> None:
        """Straight to the socket while nothing waits before it."""
        if self._flushed is None and self._transport.get_write_buffer_size() == 0:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._abort()
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._transport.write(data)
        if self._flushed is None:
            self.pause_writing()

    async def _answered_when_flushed(self) -> None:
        await self._flush()
        if not self.gone:
            self._answered()

    async def _flush(self) -> None:
        while self._flushed is not None and not self.gone:
            await asyncio.shield(self._flushed)

    def _answered(self) -> None:
        self._request = None
        if not self._keep_alive or (self._ended and not self._buffer):
            self._transport.close()
            return
        if self._buffer:
            asyncio.get_event_loop().call_soon(self._next)
        elif self._serving.pulse.slow:
            self._serving.give_back_idle()  # so that next requests go to workers that are free then
        else:
            self._states[self._slot] = shared.IDLE

    def _next(self) -> None:
        """A request that came before its turn."""
        if self.gone or self._request is not None:
            return
        self._transport.resume_reading()
        data, self._buffer = self._buffer, b""
        self.data_received(data)

    # -- streams

    async def _stream(self, request: Request, answer: Answer) -> None:
        """The head is sent with the first piece: what fails before it has a status of its own."""
        chunked = request.head.version == 1
        pieces = answer.stream
        sent = 0
        try:
            first = await self._piece(pieces)
            if not answer.kind:
                answer.kind = (
                    "text/plain; charset=utf-8" if isinstance(first, str) else "application/octet-stream"
                )
            data = None if first is None else answers.piece(first)
        except BaseException as error:
            await _close(pieces)
            self._serving.stream_ended()
            self.reply(request, self._serving.scorer.failure(error, request))
            return
        self._keep_alive = self._keep_alive and chunked
        self._states[self._slot] = shared.ANSWERING
        self._write(self._head_of(request, answer, "Transfer-Encoding: chunked\r\n" if chunked else ""))
        try:
            while data is not None and not self.gone:
                if data:
                    self._write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
                    sent += len(data)
                await self._flush()
                piece = await self._piece(pieces)
                data = None if piece is None else answers.piece(piece)
        except BaseException as error:
            self._serving.scorer.failure(
                error, request
            )  # tells the log; the caller sees an answer without its end
            self._abort()
        finally:
            await _close(pieces)
            self._serving.stream_ended()
        if not self.gone:
            if chunked:
                self._write(b"0\r\n\r\n")
            self._told(request, answer, sent)
            await self._answered_when_flushed()

    async def _piece(self, pieces: Any) -> Any:
        """The next piece, None at the end."""
        if isinstance(pieces, collections.abc.AsyncIterator):
            try:
                return await pieces.__anext__()
            except StopAsyncIteration:
                return None
        await asyncio.sleep(0)
        self._serving.pulse.beat(time.monotonic())
        try:
            return next(pieces, None)
        finally:
            self._serving.pulse.rest()

    def _told(self, request: Request, answer: Answer, size: int) -> None:
        access = self._serving.access
        if access is not None and request.path != "/":
            taken = (time.monotonic() - self._since) * 1000
            access.add(request.method, request.head.target, answer.status, taken, size, request.request_id)

    # -- ending

    def drain(self) -> None:
        """Idle ones go back at once, others end with their answer."""
        self._keep_alive = False
        self.give_back_if_idle()

    def give_back_if_idle(self) -> None:
        if self._request is None and not self.gone and self not in self._serving.reading:
            self._give(shared.BACK)

    def _abort(self) -> None:
        self.gone = True
        self._transport.abort()

    def _give(self, kind: int) -> None:
        """Our copy is closed without a word to the peer; the supervisor goes on with its own."""
        self._handed_back = self.gone = True
        self._states[self._slot] = shared.IDLE
        self._transport.abort()
        self._serving.tell(kind, self._slot)


async def _close(pieces: Any) -> None:
    try:
        if hasattr(pieces, "aclose"):
            await pieces.aclose()
        elif hasattr(pieces, "close"):
            pieces.close()
    except Exception:
        pass
