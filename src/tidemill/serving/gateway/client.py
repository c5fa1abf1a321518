"""A caller's connection: requests are read one after another, admitted, dispatched, answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from tidemill.serving.gateway import refusals
from tidemill.serving.gateway.exchange import Exchange
from tidemill.serving.gateway.http1 import CHUNKED, HEAD_LIMIT, Chunks, Refused, Request
from tidemill.serving.gateway.likeness import MISSES, Likeness
from tidemill.serving.gateway.refusals import Denied, Told

if TYPE_CHECKING:
    from tidemill.serving.gateway.gateway import Admitted, Gateway

COLLECTED = 256 << 10  # a body up to this is read whole before it takes an instance's time
BUFFER_LIMIT = 256 << 10  # of bytes that came before their turn
HEAD_S = 20.0
IDLE_S = 120.0
BODY_S, BODY_RATE = 30.0, 4 << 10  # a body may take BODY_S, and a second more for each BODY_RATE bytes
STUCK_S = 60.0  # a caller that takes nothing of its answer for so long is cut off
LINGER_S = 2.0  # a refused body is read so long, for the refusal to be seen
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Memo:
    """The last head of a connection, and who it was let in as: callers that keep a connection mostly send the
    same one again, or one like it, which means the same as long as the table is the same. Not for tokens,
    which end."""

    __slots__ = ("_block", "_likeness", "_version", "admitted", "request")

    def __init__(self, block: bytes, request: Request, admitted: Admitted, version: int) -> None:
        self._block = block
        self._likeness: Likeness | None = None
        self.request = request
        self.admitted = admitted
        self._version = version

    @staticmethod
    def fits(request: Request) -> bool:
        return request.length >= 0 and not request.expects and not request.upgrade

    def read(self, block: bytes, version: int) -> Request | None:
        """None: it is to be read in full. Raises Refused."""
        if version != self._version:
            return None
        if block == self._block:
            return self.request
        if self._likeness is None:
            self._likeness = self.request.likeness(self._block)
        return self.request.alike(self._likeness, block)


class Client(asyncio.Protocol):
    def __init__(self, gateway: Gateway, secure: bool) -> None:
        self._gateway = gateway
        self._secure = secure
        self._transport = cast(asyncio.Transport, None)
        self._buffer = b""
        self._request: Request | None = None  # whose body is read
        self._admitted: Admitted | None = None
        self._left = 0  # bytes of body that are awaited
        self._chunks: Chunks | None = None
        self._parts: list[bytes] = []
        self._read = 0  # bytes of body
        self._exchange: Exchange | None = None
        self._streams = False  # the body of the exchange is sent on as it comes
        self._is_tunnel = False
        self._is_checked = True  # False while a token is looked at
        self._memo: Memo | None = None
        self._misses = 0  # heads in a row that were not like the one before
        self._keep_alive = True
        self._lingers = False
        self._pressed = False  # the caller does not read its answer as fast as it comes
        self._sheds = False  # reading is paused
        self.since = 0.0  # of what is awaited of the caller, by the loop's clock
        self.peer = b""
        self.is_local = False
        self.forwarded = b""

    # --- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = str((transport.get_extra_info("peername") or ("",))[0])
        self.peer = peer.encode()
        self.is_local = peer in ("127.0.0.1", "::1")
        scheme = "https" if self._secure else "http"
        self.forwarded = f"X-Forwarded-For: {peer}\r\nX-Forwarded-Proto: {scheme}\r\n".encode()
        self.since = self._gateway.now()
        self._gateway.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gateway.left(self)
        self._keep_alive = False
        self._request = None
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            self._gateway.dispatcher.cancel(exchange)

    def pause_writing(self) -> None:
        self._pressed = True
        self.since = self._gateway.now()
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.pause()

    def resume_writing(self) -> None:
        self._pressed = False
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.resume()

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None or not self._is_checked:
            if self._streams:
                self._stream(data)
            elif self._is_tunnel:
                self._to_tunnel(data)
            else:
                self._keep(data)
            return
        if self._lingers:
            return
        try:
            if self._request is None:
                self._read_head(data)
            else:
                self._read_body(data)
        except Refused as error:
            self._refuse(Denied(error.status, "BadRequest", error.message))
        except Denied as denied:
            self._refuse(denied)
        except Told as told:
            self._request = None
            self._transport.write(told.bytes())
            self._transport.close()

    # --- reading

    def _keep(self, data: bytes) -> None:
        """What came before its turn."""
        self._buffer += data
        if len(self._buffer) > BUFFER_LIMIT:
            self._pause()

    def _read_head(self, data: bytes) -> None:
        began = not self._buffer
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while data[:2] == b"\r\n":  # some clients end a body with a line of its own
            data = data[2:]
        end = data.find(b"\r\n\r\n") + 4
        if end > HEAD_LIMIT or (end < 4 and len(data) > HEAD_LIMIT):
            raise Refused(431, f"The request's headers are longer than {HEAD_LIMIT} bytes.")
        if end < 4:
            if data and began:
                self.since = self._gateway.now()
            self._buffer = data
            return
        block, memo = data[:end], self._memo
        known = memo.read(block, self._gateway.live.version) if memo is not None else None
        if known is not None and memo is not None:
            self._misses = 0
            self._request = request = known
            admitted = self._gateway.again(memo)
        else:
            self._request = request = Request(block)
            admitted = self._gateway.admit(self, request)
            self._remember(block, request, admitted)
        if admitted is None:  # its token must be looked at
            self._is_checked = False
            self._buffer = data[end:]
            self._gateway.look(self, request, self._looked)
            return
        self._take(request, admitted, data[end:])

    def _remember(self, block: bytes, request: Request, admitted: Admitted | None) -> None:
        self._misses += 1
        if admitted is not None and Memo.fits(request) and self._misses <= MISSES:
            self._memo = Memo(block, request, admitted, self._gateway.live.version)
        else:
            self._memo = None

    def _looked(self, request: Request, admitted: Admitted | Denied) -> None:
        self._is_checked = True
        if self._request is not request or self._transport.is_closing():
            return
        data, self._buffer = self._buffer, b""
        self._resume()
        try:
            if isinstance(admitted, Denied):
                raise admitted
            self._take(request, admitted, data)
        except Refused as error:
            self._refuse(Denied(error.status, "BadRequest", error.message))
        except Denied as denied:
            self._refuse(denied)

    def _take(self, request: Request, admitted: Admitted, data: bytes) -> None:
        """The request may come in."""
        self._keep_alive = request.keep_alive and not self._gateway.drains
        if request.length > admitted[0].record.body_bytes:
            self._check_length(request.length, admitted)
        if request.length == len(data):  # mostly
            self._start(request, admitted, data)
            return
        self._request = request
        self._admitted = admitted
        self._left, self._read, self._parts = request.length, 0, []
        self._chunks = Chunks() if request.length == CHUNKED else None
        self.since = self._gateway.now()
        if request.length == 0:
            self._buffer = data
            self._start(request, admitted, b"")
            return
        if request.expects and not data:
            self._transport.write(_CONTINUE)
        if data:
            self._read_body(data)

    def _check_length(self, length: int, admitted: Admitted) -> None:
        limit = admitted[0].record.body_bytes
        if length > limit:
            self._keep_alive = False
            raise Denied(413, "PayloadTooLarge", f"The body has {length} bytes; {limit} is the limit.")

    def _read_body(self, data: bytes) -> None:
        request, admitted = self._request, self._admitted
        assert request is not None
        assert admitted is not None
        ended = self._feed(data, admitted)
        if ended:
            body = b"".join(self._parts)
            self._parts = []
            if request.length == CHUNKED:
                request.fields += b"Content-Length: %d\r\n" % len(body)
                request.length = len(body)
            self._start(request, admitted, body)
        elif self._read >= COLLECTED:
            body = b"".join(self._parts)
            self._parts = []
            if request.length == CHUNKED:
                request.fields += b"Transfer-Encoding: chunked\r\n"
            self._streams = True
            self._pause()
            self._start(request, admitted, body, whole=False)

    def _feed(self, data: bytes, admitted: Admitted) -> bool:
        """Takes what belongs to the body -> whether that ended. Raises Refused, Denied."""
        if self._chunks is not None:
            pieces, self._buffer = self._chunks.feed(data)
            self._parts += pieces
            self._read += sum(map(len, pieces))
            self._check_length(self._read, admitted)
            return self._chunks.done
        taken = data[: self._left]
        self._buffer = data[self._left :]
        self._parts.append(taken)
        self._read += len(taken)
        self._left -= len(taken)
        return not self._left

    def _start(self, request: Request, admitted: Admitted, body: bytes, whole: bool = True) -> None:
        self._request = None if whole else request
        self._exchange = exchange = self._gateway.exchange(self, request, admitted, body, whole)
        exchange.keep_alive = self._keep_alive
        self._gateway.dispatch(exchange, admitted)

    def _stream(self, data: bytes) -> None:
        """More of a body of which the first part is on its way."""
        exchange, admitted = self._exchange, self._admitted
        assert exchange is not None
        assert admitted is not None
        try:
            ended = self._feed(data, admitted)
        except (Refused, Denied) as error:
            self._gateway.dispatcher.cancel(exchange)
            self._exchange = None
            self._streams = False
            code = error.code if isinstance(error, Denied) else "BadRequest"
            self._refuse(Denied(error.status, code, error.message))
            return
        body = b"".join(self._parts)
        self._parts = []
        if exchange.upstream is None:  # it was paused, but this had been read
            exchange.body += body
            return
        if ended:
            self._streams = False
            self._request = None
        exchange.upstream.send_body(body, ended)

    def _to_tunnel(self, data: bytes) -> None:
        self.since = self._gateway.now()
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.send_body(data, False)

    def _pause(self) -> None:
        if not self._sheds:
            self._sheds = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._sheds:
            self._sheds = False
            self._transport.resume_reading()

    # --- the answer (exchange.Caller)

    def answer(self, exchange: Exchange, data: bytes, ended: bool) -> None:
        if self._exchange is not exchange:
            return
        if data:
            self._transport.write(data)
        if ended:
            self._answered(exchange.keep_alive)

    def fail(self, exchange: Exchange, status: int, code: str, message: str) -> None:
        if self._exchange is not exchange:
            return
        if exchange.answered:  # it sees an answer without its end
            self._exchange = None
            self._transport.abort()
            return
        keep_alive = exchange.keep_alive and not self._streams
        body = exchange.request.method != b"HEAD"
        more = exchange.deployment.header.decode()
        self._transport.write(
            refusals.answer(status, code, message, close=not keep_alive, more=more, body=body)
        )
        self._answered(keep_alive)

    def wants_body(self, exchange: Exchange) -> None:
        if self._exchange is exchange and (self._streams or self._is_tunnel):
            self.since = self._gateway.now()
            self._resume()

    def hold_body(self, exchange: Exchange) -> None:
        if self._exchange is exchange and (self._streams or self._is_tunnel):
            self._pause()

    def tunnel(self, exchange: Exchange, data: bytes) -> None:
        self._is_tunnel, self._keep_alive = True, False
        self._transport.write(data)
        early, self._buffer = self._buffer, b""
        if early:
            self._to_tunnel(early)
        self._resume()

    def _answered(self, keep_alive: bool) -> None:
        self._exchange = None
        self.since = 0.0  # it is idle since about the next look at the clock
        if self._streams:  # the rest of the request is nobody's
            self._streams, keep_alive = False, False
        if not keep_alive or self._gateway.drains:
            self._transport.close()
            return
        if self._buffer or self._sheds:
            self._gateway.loop.call_soon(self._next)

    def _next(self) -> None:
        """A request that came before its turn."""
        if self._exchange is not None or self._transport.is_closing():
            return
        data, self._buffer = self._buffer, b""
        self._resume()
        if data:
            self.data_received(data)

    def _refuse(self, denied: Denied) -> None:
        """Of a request that was read whole only this is refused; after others nothing can be understood."""
        request, self._request = self._request, None
        whole = request is not None and request.length == 0 and self._chunks is None
        keep_alive = whole and self._keep_alive and denied.status != 400 and not self._gateway.drains
        body = request is None or request.method != b"HEAD"
        self._gateway.denied(self, request, denied)
        self._transport.write(
            refusals.answer(
                denied.status, denied.code, denied.message, close=not keep_alive, more=denied.more, body=body
            )
        )
        self._chunks, self._parts = None, []
        if keep_alive:
            self._answered(True)
            return
        self._buffer = b""
        self._lingers = True
        self._resume()
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._gateway.loop.call_later(LINGER_S, self._transport.abort)
        else:
            self._transport.close()

    # --- time

    def look_at_clock(self, now: float) -> None:
        """Called now and then: what has taken too long is ended."""
        if not self.since:
            self.since = now
        taken = now - self.since
        if self._pressed:
            if taken > STUCK_S:
                self._transport.abort()
        elif self._is_tunnel:
            if taken > self._gateway.tunnel_idle_s:
                self._transport.close()
        elif self._streams or (self._request is not None and self._is_checked):
            if not self._sheds and taken > BODY_S + self._read / BODY_RATE:
                self._slow(f"The body came too slowly: {self._read} bytes in {taken:.0f} s.")
        elif self._exchange is None and self._is_checked:
            if self._buffer and taken > HEAD_S:
                self._slow(f"The request's headers did not arrive within {HEAD_S:g} s.")
            elif taken > IDLE_S:
                self._transport.close()

    def _slow(self, text: str) -> None:
        if self._exchange is not None:
            self._gateway.dispatcher.fail(self._exchange, 408, "RequestTimeout", text)
            self._transport.close()
        else:
            self._refuse(Denied(408, "RequestTimeout", text))

    def drain(self) -> None:
        """Idle ones are closed at once, the others with their answer."""
        if self._exchange is None and self._request is None and not self._buffer:
            self._transport.close()
        elif self._exchange is not None:
            self._exchange.keep_alive = False

    def abort(self) -> None:
        self._transport.abort()
