"""The request parser: what it reads, what it refuses, and that llhttp reads the same bytes no other way."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.serving.scoring.http import HEAD_LIMIT, Body, Refused, parse_head


def head(*lines: bytes, first: bytes = b"POST /score HTTP/1.1", host: bool = True) -> bytes:
    return b"\r\n".join([first, *([b"Host: x"] if host else []), *lines]) + b"\r\n\r\n"


def test_a_head_is_read() -> None:
    found = parse_head(head(b"Content-Length: 12", b"X-A:  b ", b"x-a: c", b"Cookie: a=1", b"cookie: b=2"))
    assert (found.method, found.target, found.length, found.keep_alive) == ("POST", "/score", 12, True)
    assert found.headers == {"host": "x", "content-length": "12", "x-a": "b, c", "cookie": "a=1; b=2"}
    assert not parse_head(head(b"Connection: Close")).keep_alive
    assert not parse_head(head(first=b"GET / HTTP/1.0")).keep_alive
    assert parse_head(head(b"Connection: keep-alive", first=b"GET / HTTP/1.0")).keep_alive
    assert parse_head(head(b"Transfer-Encoding: chunked")).length is None


@pytest.mark.parametrize(
    ("lines", "status", "said"),
    [
        (
            [b"Content-Length: 3", b"Transfer-Encoding: chunked"],
            400,
            "Content-Length and a Transfer-Encoding",
        ),
        ([b"Content-Length: 3", b"Content-Length: 4"], 400, "content-length is there twice"),
        ([b"Content-Length: 3", b"content-length: 3"], 400, "content-length is there twice"),
        ([b"Content-Length: +3"], 400, "is not a number"),
        ([b"Content-Length: 3, 3"], 400, "is not a number"),
        ([b"Content-Length: 0x3"], 400, "is not a number"),
        ([b"Content-Length: "], 400, "is not a number"),
        ([b"Content-Length: 9999999999999999999999"], 400, "is not a number"),
        ([b"Transfer-Encoding: xchunked"], 501, "only chunked"),
        ([b"Transfer-Encoding: gzip, chunked"], 501, "only chunked"),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], 400, "there twice"),
        ([b"Transfer-Encoding : chunked"], 400, "malformed"),
        ([b" folded: yes"], 400, "malformed"),
        ([b"A: b", b"\tfolded"], 400, "malformed"),
        ([b"A: b\nTransfer-Encoding: chunked"], 400, "malformed"),
        ([b"A: b\rTransfer-Encoding: chunked"], 400, "malformed"),
        ([b"A: \x00"], 400, "malformed"),
        ([b"no colon"], 400, "malformed"),
        ([b": no name"], 400, "malformed"),
        ([b"Host: y"], 400, "host is there twice"),
        ([b"Expect: 200-ok"], 417, "only 100-continue"),
        ([b"X-%d: a" % n for n in range(300)], 431, "256 is the limit"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(
    lines: list[bytes], status: int, said: str
) -> None:
    with pytest.raises(Refused) as refused:
        parse_head(head(*lines))
    assert refused.value.status == status
    assert said in refused.value.message


@pytest.mark.parametrize(
    "first",
    [
        b"GET /",
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.1 ",
        b"GET  / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b" GET / HTTP/1.1",
        b"G@T / HTTP/1.1",
        b"GET / http/1.1",
        b"",
    ],
)
def test_a_bad_request_line_is_refused(first: bytes) -> None:
    with pytest.raises(Refused, match="request line"):
        parse_head(head(first=first))


def test_a_request_needs_a_host() -> None:
    with pytest.raises(Refused, match="no Host"):
        parse_head(head(host=False))


class Oracle:
    """llhttp's reading of the same bytes: the requests that are complete, and whether it refused the rest."""

    def __init__(self, data: bytes) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.refused = False
        self._fresh()
        parser = httptools.HttpRequestParser(self)
        self._parser = parser
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.refused = True

    def _fresh(self) -> None:
        self._url, self._headers, self._body = b"", dict[str, str](), b""

    def on_message_begin(self) -> None:
        self._fresh()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        key, text = name.decode("latin-1").lower(), (value or b"").decode("latin-1").rstrip(" \t")
        joint = "; " if key == "cookie" else ", "
        self._headers[key] = self._headers[key] + joint + text if key in self._headers else text

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        self.requests.append((method, self._url.decode("latin-1"), self._headers, self._body))


def read_all(data: bytes, limit: int = 1 << 20) -> tuple[list[tuple[str, str, dict[str, str], bytes]], bool]:
    """Ours: -> (requests, refused)."""
    found: list[tuple[str, str, dict[str, str], bytes]] = []
    try:
        while data:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            parsed = parse_head(data[: end + 4])
            body = Body(parsed.length, limit)
            data = body.feed(data[end + 4 :])
            if not body.done:
                break
            found.append((parsed.method, parsed.target, parsed.headers, body.bytes()))
            if not parsed.keep_alive:
                break
    except Refused:
        return found, True
    return found, False


NAMES = [
    b"Host",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Connection",
    b"X-A",
    b"x-a",
    b"Cookie",
    b"Expect",
]
VALUES = [
    b"x",
    b"3",
    b"0",
    b"chunked",
    b"close",
    b"keep-alive",
    b"gzip, chunked",
    b"a\x80",
    b"",
    b" 3 ",
    b"+3",
    b"3;",
]
LINES = st.builds(
    lambda name, colon, value, end: name + colon + value + end,
    st.sampled_from(NAMES),
    st.sampled_from([b": ", b":", b" : ", b":\t"]),
    st.sampled_from(VALUES),
    st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\n "]),
)
REQUESTS = st.builds(
    lambda first, lines, end, body: first + b"Host: h\r\n" + b"".join(lines) + end + body,
    st.sampled_from(
        [b"POST /score HTTP/1.1\r\n"] * 4 + [b"GET / HTTP/1.0\r\n", b"POST  / HTTP/1.1\r\n", b"\r\n"]
    ),
    st.lists(LINES, max_size=4),
    st.sampled_from([b"\r\n"] * 6 + [b"\n", b"\r\n\r\n"]),
    st.sampled_from(
        [
            b"",
            b"abc",
            b"3\r\nabc\r\n0\r\n\r\n",
            b"3 \r\nabc\r\n0\r\n\r\n",
            b"3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n",
        ]
    )
    | st.binary(max_size=12),
)


def agree(data: bytes) -> None:
    ours, _ = read_all(data)
    theirs = Oracle(data).requests
    # We may refuse what llhttp takes; we never read another request than it does.
    assert ours == theirs[: len(ours)], (ours, theirs)


@settings(deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=3))
def test_no_request_is_read_otherwise_than_by_llhttp(requests: list[bytes]) -> None:
    agree(b"".join(requests))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    agree(data)
    agree(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + data)


@settings(deadline=None)
@given(st.data())
def test_a_body_is_the_same_however_it_is_cut(data: Any) -> None:
    parts = data.draw(st.lists(st.binary(max_size=40), max_size=6))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"
    stream = chunks + b"next"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    body, rest = Body(None, 1 << 20), b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        piece = stream[start:end]
        rest += piece if body.done else body.feed(piece)
    assert body.done
    assert (body.bytes(), rest) == (b"".join(parts), b"next")


@pytest.mark.parametrize(
    "data",
    [
        b"g\r\n",
        b"-1\r\n",
        b"0x3\r\nabc\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n",
        b"\r\n",
        b"3 ;" + b"x" * 300,
        b"ffffffffffffffffff\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
    ],
)
def test_a_bad_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        Body(None, 1 << 20).feed(data)
    assert refused.value.status in (400, 413)


def test_a_body_over_the_limit_is_refused_before_it_is_kept() -> None:
    with pytest.raises(Refused, match="The body has 11 bytes; 10 is the limit"):
        Body(11, 10)
    body = Body(None, 10)
    body.feed(b"a\r\n" + b"x" * 10 + b"\r\n")
    with pytest.raises(Refused, match="10 is the limit"):
        body.feed(b"1\r\n")


def test_trailers_without_end_reach_the_limit() -> None:
    body = Body(None, 1000)
    body.feed(b"0\r\n")
    with pytest.raises(Refused, match="limit"):
        body.feed(b"a: bcdefg\r\n" * 1000)


def test_the_limit_of_heads_leaves_room_for_64_kb() -> None:
    assert HEAD_LIMIT == 64 << 10
