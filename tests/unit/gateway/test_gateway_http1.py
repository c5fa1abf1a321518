"""HTTP/1.1 as the gateway reads it: what two readers could read differently is refused."""

from __future__ import annotations

import contextlib
import itertools

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.serving.gateway.http1 import (
    CHUNKED,
    HEAD_LIMIT,
    LAST_CHUNK,
    UNTIL_CLOSE,
    Answer,
    Broken,
    Chunks,
    Refused,
    Request,
    chunk,
)


def request(*lines: str, first: str = "POST /x HTTP/1.1", host: str = "Host: h") -> Request:
    return Request("\r\n".join([first, *([host] if host else []), *lines, "", ""]).encode("latin-1"))


def refused(*lines: str, **more: str) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        request(*lines, **more)
    return caught.value.status, caught.value.message


def test_what_is_passed_on_and_what_is_not() -> None:
    read = request(
        "AUTHORIZATION:  Bearer  Abc ",
        "X-One: 1",
        "Content-Length: 7",
        "azureml-model-deployment: Blue ",
        "X-Forwarded-For: 1.2.3.4",
        "Forwarded: for=1",
        "TE: trailers",
        "x-request-id: mine",
        "X-Two: 2",
        "Connection: keep-alive, X-Two",
        "Proxy-Authorization: Basic x",
    )
    assert read.fields == b"Host: h\r\nX-One: 1\r\nContent-Length: 7\r\nx-request-id: mine\r\n"
    assert (read.authorization, read.length, read.request_id) == (b"Bearer  Abc", 7, b"mine")
    assert read.deployment == b"blue"
    assert read.keep_alive


def test_connections_and_versions() -> None:
    assert request().keep_alive
    assert not request("Connection: close").keep_alive
    assert not request(first="GET / HTTP/1.0").keep_alive
    assert request("Connection: Keep-Alive", first="GET / HTTP/1.0").keep_alive
    assert request(first="GET / HTTP/1.0", host="").length == 0
    assert request("Expect: 100-Continue").expects
    assert request("Connection: Upgrade", "Upgrade: websocket").upgrade == b"websocket"
    assert request("Upgrade: websocket").upgrade == b""
    assert request("Transfer-Encoding: Chunked").length == CHUNKED


@pytest.mark.parametrize(
    ("lines", "status", "word"),
    [
        (("Content-Length: 1", "Transfer-Encoding: chunked"), 400, "Content-Length and a Transfer-Encoding"),
        (("Content-Length: 1", "Content-Length: 1"), 400, "content-length"),
        (("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400, "transfer-encoding"),
        (("Transfer-Encoding: gzip, chunked",), 501, "chunked"),
        (("Transfer-Encoding: chunked, identity",), 501, "chunked"),
        (("Transfer-Encoding: xchunked",), 501, "chunked"),
        (("Transfer-Encoding : chunked",), 400, "malformed"),
        (("Transfer-Encoding:\tchunked\x0b",), 400, "malformed"),
        (("Content-Length: +1",), 400, "number of bytes"),
        (("Content-Length: 1,1",), 400, "number of bytes"),
        (("Content-Length: 0x1",), 400, "number of bytes"),
        (("Content-Length: -1",), 400, "number of bytes"),
        (("Content-Length: ",), 400, "number of bytes"),
        (("Content-Length: 9999999999999999999",), 400, "number of bytes"),
        (("Content-Length: 1\u00b2",), 400, "number of bytes"),
        (("A: b", " folded"), 400, "malformed"),
        (("A: b\nB: c",), 400, "malformed"),
        (("A: b\rB: c",), 400, "malformed"),
        (("A: \x00",), 400, "malformed"),
        ((": empty",), 400, "malformed"),
        (("no colon",), 400, "malformed"),
        (("Host: other",), 400, "host"),
        (("Authorization: Bearer a", "Authorization: Bearer b"), 400, "authorization"),
        (("Connection: Content-Length", "Content-Length: 2"), 400, "passed on"),
        (("Expect: something",), 417, "100-continue"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines: tuple[str, ...], status: int, word: str) -> None:
    got, message = refused(*lines)
    assert (got, word in message) == (status, True), message


@pytest.mark.parametrize(
    "first",
    [
        "POST  /x HTTP/1.1",
        "POST /x  HTTP/1.1",
        "POST /x HTTP/1.1 ",
        " POST /x HTTP/1.1",
        "POST /x HTTP/2.0",
        "POST /x HTTP/1.2",
        "POST /x http/1.1",
        "POST /a b HTTP/1.1",
        "POST /x",
        "PO ST /x HTTP/1.1",
        "POST\t/x HTTP/1.1",
        "",
    ],
)
def test_request_lines_that_are_none(first: str) -> None:
    assert refused(first=first)[0] == 400


def test_old_ones_and_too_many() -> None:
    assert refused("Transfer-Encoding: chunked", first="POST / HTTP/1.0")[0] == 400
    assert refused(host="")[0] == 400
    assert refused(*[f"A{n}: b" for n in range(300)])[0] == 431


def answer(*lines: str, first: str = "HTTP/1.1 200 OK", method: bytes = b"POST") -> Answer:
    return Answer("\r\n".join([first, *lines, "", ""]).encode("latin-1"), method)


def test_answers() -> None:
    assert answer("Content-Length: 5").length == 5
    assert answer("Content-Length: 5", method=b"HEAD").length == 0
    assert answer("Content-Length: 5", first="HTTP/1.1 304 Not Modified").length == 0
    assert answer("Transfer-Encoding: chunked").length == CHUNKED
    until_close = answer()
    assert (until_close.length, until_close.keep_alive) == (UNTIL_CLOSE, False)
    assert not answer("Content-Length: 1", "Connection: close").keep_alive
    assert not answer("Content-Length: 1", first="HTTP/1.0 200 OK").keep_alive
    kept = answer("A: b", "Connection: keep-alive, A", "Keep-Alive: timeout=5", "Content-Length: 1", "C: d")
    assert (kept.fields, kept.keep_alive) == (b"Content-Length: 1\r\nC: d\r\n", True)
    said = answer("Content-Length: 1", "A: b", "Connection: keep-alive", "C: d")
    assert (said.fields, said.length, said.keep_alive) == (b"Content-Length: 1\r\nA: b\r\nC: d\r\n", 1, True)
    said = answer("Content-Length: 1", "connection: Keep-Alive", "C: d")
    assert (said.fields, said.keep_alive) == (b"Content-Length: 1\r\nC: d\r\n", True)
    assert answer(first="HTTP/1.1 404 Not Found").reason == b"Not Found"
    assert answer(first="HTTP/1.1 404").status == 404


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: x",),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: br",),
        ("A: b", " folded"),
        ("A : b",),
    ],
)
def test_answers_that_are_none(lines: tuple[str, ...]) -> None:
    with pytest.raises(Broken):
        answer(*lines)
    with pytest.raises(Broken):
        answer(first="HTTP/1.1 99 X")


# --- chunks


def fed(parts: list[bytes]) -> tuple[bytes, bytes, bool]:
    chunks, body, rest = Chunks(), b"", b""
    for part in parts:
        if chunks.done:
            rest += part
            continue
        pieces, left = chunks.feed(part)
        body += b"".join(pieces)
        rest += left
    return body, rest, chunks.done


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    st.binary(max_size=20),
    st.lists(st.integers(0, 5000)),
)
@settings(max_examples=200)
def test_chunks_are_the_same_wherever_they_are_cut(
    bodies: list[bytes], after: bytes, places: list[int]
) -> None:
    data = b"".join(chunk(body) for body in bodies) + LAST_CHUNK + after
    assert fed(cut(data, places)) == (b"".join(bodies), after, True)


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\nab\r\n",
        b"0x2\r\nab\r\n",
        b"2\nab\r\n",
        b"2\r\nabc\r\n",
        b"2\r\nab\n",
        b"2 \x00\r\nab\r\n",
        b"2;" + b"e" * 400 + b"\r\nab\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 3000 + b"\r\n",
        b"1234567890123456\r\n",
        b"2\r\nab\r\r\n",
    ],
)
def test_chunks_that_are_none(data: bytes) -> None:
    with pytest.raises(Refused):
        fed([data])
    with pytest.raises(Refused):
        fed([bytes([one]) for one in data])


# --- an oracle: what llhttp takes with another meaning must be refused here


class Oracle:
    def __init__(self) -> None:
        self.heads = 0
        self.lengths: list[bytes] = []
        self.chunked = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-length":
            self.lengths.append(value)
        if name.lower() == b"transfer-encoding":
            self.chunked = True

    def on_headers_complete(self) -> None:
        self.heads += 1


_PARTS = st.sampled_from(
    ["Content-Length: 3", "Content-Length: 03", "Content-Length:3 ", "Transfer-Encoding: chunked", "Host: h",
     "Transfer-Encoding:chunked ", "A: b", " c", "\tx: y", "A : b", "Content-Length: 3, 3", "X: \u00ff", "B:",
     "Connection: close", "Upgrade: x", "Transfer-Encoding: identity", "content-length : 1", "A: b\rC: d"]
)  # fmt: skip


@given(
    st.lists(_PARTS, max_size=5), st.sampled_from(["POST / HTTP/1.1", "GET /x HTTP/1.0", "PUT  / HTTP/1.1"])
)
@settings(max_examples=500)
def test_never_another_length_than_llhttps(lines: list[str], first: str) -> None:
    block = "\r\n".join([first, *lines, "", ""]).encode("latin-1")
    try:
        ours = Request(block)
    except Refused:
        return
    oracle = Oracle()
    parser = httptools.HttpRequestParser(oracle)
    with contextlib.suppress(httptools.HttpParserUpgrade):
        parser.feed_data(block)
    assert oracle.heads == 1
    if oracle.chunked:
        assert ours.length == CHUNKED
    else:
        assert ours.length == (int(oracle.lengths[0]) if oracle.lengths else 0)


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    for read in (Request, lambda block: Answer(block, b"GET")):
        with contextlib.suppress(Refused, Broken):
            read(data)
    with contextlib.suppress(Refused):
        Chunks().feed(data)
    assert HEAD_LIMIT == 64 << 10
