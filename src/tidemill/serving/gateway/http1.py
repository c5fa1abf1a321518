"""HTTP/1.1 as a gateway reads it (RFC 9112): heads of requests and answers, and bodies in chunks. No I/O.

Strict, because an instance reads the same bytes after us: what two readers could read differently (two
lengths, a length beside chunks, folded lines, bare line feeds, space before a colon) is refused. A head is
not taken apart: one regular expression checks all of it, a second finds the fields that the gateway must
know, and the rest is passed on as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tidemill.serving.scoring.http import CHUNK_LINE_LIMIT, FIELDS_LIMIT, HEAD_LIMIT, TRAILER_LIMIT, Refused

CHUNKED = -1  # the length of a body in chunks
UNTIL_CLOSE = -2  # of an answer that ends with its connection

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_FIELDS = rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*+\r\n)*+"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]++) HTTP/1\.([01])\r\n" + _FIELDS + rb"\r\n")
_REQUEST_LINE = re.compile(_TOKEN + rb" [!-~\x80-\xff]+ HTTP/1\.[01]\r\n")
_ANSWER = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t -~\x80-\xff]*+)?\r\n" + _FIELDS + rb"\r\n")
# Fields that the gateway must know of a request, and those that end with it: hop by hop, the caller's
# credentials, and what others could say of where a request comes from.
_OF_REQUEST = re.compile(
    rb"\n(authorization|azureml-model-deployment|connection|content-length|expect|forwarded|host|keep-alive"
    rb"|proxy-authenticate|proxy-authorization|proxy-connection|te|trailer|transfer-encoding|upgrade"
    rb"|x-forwarded-for|x-forwarded-host|x-forwarded-proto|x-request-id):[ \t]*"
)
_OF_ANSWER = re.compile(
    rb"\n(azureml-model-deployment|connection|content-length|keep-alive|ms-azureml-model-error-reason"
    rb"|ms-azureml-model-error-statuscode|proxy-authenticate|proxy-connection|te|trailer|transfer-encoding"
    rb"|upgrade):[ \t]*"
)
_KEPT = frozenset((b"content-length", b"host", b"x-request-id"))
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*")


class Broken(Exception):
    """An answer that cannot be read: the instance is at fault."""


class Request:
    """`length`: bytes of body, or CHUNKED. `fields`: those that are passed on, without a transfer encoding.
    `upgrade`: the protocol that is asked for, b"" for none."""

    __slots__ = (
        "authorization",
        "deployment",
        "expects",
        "fields",
        "keep_alive",
        "length",
        "method",
        "request_id",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, block: bytes) -> None:
        """`block` ends with the empty line. Raises Refused."""
        line = _REQUEST.fullmatch(block)
        if line is None:
            raise _unreadable(block)
        self.method: bytes = line[1]
        self.target: bytes = line[2]
        self.version = 1 if line[3] == b"1" else 0
        start = line.end(3) + 1  # at the line feed of "\r\n", which each field's line has before it
        low = block[start:-2].lower()
        self.authorization: bytes | None = None
        self.deployment: bytes | None = None
        self.request_id = b""
        self.length = 0
        self.expects = False
        self.upgrade = b""
        self.keep_alive = self.version == 1
        fields = block[start + 1 : -2]
        count = low.count(b"\n") - 1
        if count > FIELDS_LIMIT:
            raise Refused(431, f"The request has {count} headers; {FIELDS_LIMIT} is the limit.")
        found: dict[bytes, bytes] = {}
        cuts: list[tuple[int, int]] = []
        for match in _OF_REQUEST.finditer(low):
            name, at = match[1], match.end()
            end = low.index(b"\n", at)
            if name in found:
                raise Refused(400, f"The header {name.decode()} is there twice.")
            found[name] = block[start + at : start + end - 1].rstrip(b" \t")
            if name not in _KEPT:
                cuts.append((match.start(), end))
        if b"host" not in found and self.version:
            raise Refused(400, "The request has no Host header.")
        self._understand(found)
        if cuts:
            fields = _without(fields, cuts)
        if b"connection" in found:
            fields = self._without_named(fields, found[b"connection"])
        self.fields = fields

    def _understand(self, found: dict[bytes, bytes]) -> None:
        self.authorization = found.get(b"authorization")
        self.deployment = found.get(b"azureml-model-deployment")
        self.request_id = found.get(b"x-request-id", b"")
        length = found.get(b"content-length")
        coding = found.get(b"transfer-encoding")
        if coding is not None:
            self._in_chunks(coding, length)
        elif length is not None:
            if _LENGTH.fullmatch(length) is None:
                raise Refused(400, f"Content-Length: {_shown(length)} is not a number of bytes.")
            self.length = int(length)
        expect = found.get(b"expect")
        if expect is not None and self.version:
            if expect.lower() != b"100-continue":
                raise Refused(417, f"Expect: {_shown(expect)} is not understood, only 100-continue is.")
            self.expects = True
        connection = found.get(b"connection")
        if connection is not None:
            words = _words(connection)
            self.keep_alive = b"close" not in words and (self.version == 1 or b"keep-alive" in words)
            if b"upgrade" in words and self.version:
                self.upgrade = found.get(b"upgrade", b"")

    def _in_chunks(self, coding: bytes, length: bytes | None) -> None:
        if length is not None:
            raise Refused(400, "The request has a Content-Length and a Transfer-Encoding.")
        if not self.version:
            raise Refused(400, "Transfer-Encoding is not part of HTTP/1.0.")
        if coding.lower() != b"chunked":
            raise Refused(501, f"Transfer-Encoding: {_shown(coding)} is not understood, only chunked is.")
        self.length = CHUNKED

    def _without_named(self, fields: bytes, connection: bytes) -> bytes:
        """Fields that Connection names are for this hop alone. Raises Refused for what must not be one."""
        named = _words(connection) - {b"close", b"keep-alive", b"upgrade", b"te"}
        if named & {b"content-length", b"host", b"x-request-id"}:
            raise Refused(400, f"Connection: {_shown(connection)} names a header that must be passed on.")
        return _without_lines(fields, named) if named else fields


class Answer:
    """`length`: bytes of body, CHUNKED or UNTIL_CLOSE. `fields`: those that are passed on."""

    __slots__ = ("fields", "keep_alive", "length", "reason", "status")

    def __init__(self, block: bytes, method: bytes) -> None:
        """The head of an answer to `method`. Raises Broken."""
        line = _ANSWER.fullmatch(block)
        if line is None:
            raise Broken("its head could not be read")
        self.status = int(line[2])
        start = block.index(b"\n")
        self.reason = block[line.end(2) : start - 1].strip()
        low = block[start:-2].lower()
        fields = block[start + 1 : -2]
        self.keep_alive = line[1] == b"1"
        length, coding, connection = None, None, b""
        cuts: list[tuple[int, int]] = []
        for match in _OF_ANSWER.finditer(low):
            name, at = match[1], match.end()
            end = low.index(b"\n", at)
            value = low[at : end - 1].rstrip(b" \t")
            if name == b"content-length":
                if _LENGTH.fullmatch(value) is None or length not in (None, value):
                    raise Broken("it has no one Content-Length")
                length = value
                continue
            cuts.append((match.start(), end))
            if name == b"transfer-encoding":
                if coding is not None or value != b"chunked":
                    raise Broken("its Transfer-Encoding is not chunked")
                coding = value
            elif name == b"connection":
                connection = connection + b"," + value
        if cuts:
            fields = _without(fields, cuts)
        if connection:
            words = _words(connection)
            self.keep_alive = b"close" not in words and (self.keep_alive or b"keep-alive" in words)
            named = words - {b"close", b"keep-alive", b"upgrade", b"content-length", b""}
            fields = _without_lines(fields, named) if named else fields
        self.fields = fields
        self.length = self._length(length, coding, method)

    def _length(self, length: bytes | None, coding: bytes | None, method: bytes) -> int:
        if coding is not None and length is not None:
            raise Broken("it has a Content-Length and a Transfer-Encoding")
        if method == b"HEAD" or self.status < 200 or self.status in (204, 304):
            return 0
        if coding is not None:
            return CHUNKED
        if length is not None:
            return int(length)
        self.keep_alive = False
        return UNTIL_CLOSE


class Chunks:
    """Takes a body in chunks apart. Chunk extensions and trailers are checked and dropped."""

    __slots__ = ("_left", "_line", "_stage", "_trailers", "done")

    SIZE, DATA, DATA_END, TRAILER = range(4)

    def __init__(self) -> None:
        self._left = 0
        self._line = b""
        self._stage = self.SIZE
        self._trailers = 0
        self.done = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """-> (pieces of the body, what comes after its end). Raises Refused."""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if self._stage == self.DATA:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if not self._left:
                    self._stage = self.DATA_END
            else:
                line, at = self._read_line(data, at)
                if line is not None:
                    self._end_line(line)
        return pieces, data[at:]

    def _read_line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """A line ends with CR LF and holds neither alone."""
        stop = data.find(b"\n", at)
        end = len(data) if stop < 0 else stop + 1
        limit = TRAILER_LIMIT if self._stage == self.TRAILER else CHUNK_LINE_LIMIT
        if len(self._line) + end - at > limit:
            raise Refused(400, f"A line between the chunks is longer than {limit} bytes.")
        self._line += data[at:end]
        if stop < 0:
            return None, end
        line, self._line = self._line, b""
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise Refused(400, "A line between the chunks does not end with CR LF.")
        return line[:-2], end

    def _end_line(self, line: bytes) -> None:
        if self._stage == self.DATA_END:
            if line:
                raise Refused(400, "A chunk is longer than its size says.")
            self._stage = self.SIZE
        elif self._stage == self.SIZE:
            size = _CHUNK.fullmatch(line)
            if size is None:
                raise Refused(400, f"A chunk's size could not be read: {_shown(line)}")
            self._left = int(size[1], 16)
            self._stage = self.DATA if self._left else self.TRAILER
        elif line:
            self._trailers += len(line)
            if _TRAILER.fullmatch(line) is None or self._trailers > TRAILER_LIMIT:
                raise Refused(400, f"A trailer is malformed, or there are too many: {_shown(line)}")
        else:
            self.done = True


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def _unreadable(block: bytes) -> Refused:
    line = _REQUEST_LINE.match(block)
    if line is None:
        return Refused(400, "The request line could not be read: " + _shown(block.partition(b"\r\n")[0]))
    for field in block[line.end() :].split(b"\n"):
        if field not in (b"\r", b"") and re.fullmatch(_TOKEN + rb":[\t -~\x80-\xff]*\r", field) is None:
            return Refused(400, f"A header line is malformed: {_shown(field)}")
    return Refused(400, "The headers could not be read.")


def _without(fields: bytes, cuts: Iterable[tuple[int, int]]) -> bytes:
    """Without the lines at these places, which are counted from the line feed before the first one."""
    kept: list[bytes] = []
    last = 0
    for start, end in cuts:
        kept.append(fields[last:start])
        last = end
    kept.append(fields[last:])
    return b"".join(kept)


def _without_lines(fields: bytes, names: set[bytes]) -> bytes:
    lines = fields.splitlines(keepends=True)
    return b"".join(line for line in lines if line.partition(b":")[0].lower() not in names)


def _words(value: bytes) -> set[bytes]:
    return {word.strip() for word in value.lower().split(b",")}


def _shown(line: bytes) -> str:
    text = line.decode("latin-1")
    return repr(text if len(text) <= 80 else text[:80] + "…")


__all__ = [
    "CHUNKED",
    "HEAD_LIMIT",
    "LAST_CHUNK",
    "UNTIL_CLOSE",
    "Answer",
    "Broken",
    "Chunks",
    "Refused",
    "Request",
    "chunk",
]
