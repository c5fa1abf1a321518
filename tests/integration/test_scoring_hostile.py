"""What a hostile or broken client does to the scoring server: bounded, answered, and the worker lives."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobserver import until
from scoringserver import Scoring, scoring

SCRIPT = "import os\ndef init(): pass\ndef run(raw): return [len(raw), os.getpid()]\n"
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scoring]:
    with scoring(
        tmp_path_factory.mktemp("hostile"), SCRIPT, TIDEMILL_SERVING_MAX_BODY_BYTES=str(LIMIT)
    ) as running:
        pid = running.score(b"{}").json[1]
        yield running
        assert running.score(b"{}").json[1] == pid, "the worker did not survive"


def talk(server: Scoring, *pieces: bytes, half_close: bool = False) -> bytes:
    """-> everything that is answered, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                sock.sendall(piece)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionError):
            while chunk := sock.recv(65536):
                received += chunk
    return received


def answer_of(reply: bytes) -> tuple[int, str]:
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["message"]


def test_a_body_of_1_gb_is_refused_by_its_length(server: Scoring) -> None:
    block = b"x" * (1 << 20)
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n"
    status, said = answer_of(talk(server, head, *[block] * 64))
    assert (status, said) == (413, f"The body has 1073741824 bytes; {LIMIT} is the limit.")


def test_a_chunked_body_without_end_is_refused_at_the_limit(server: Scoring) -> None:
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, said = answer_of(talk(server, head, *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 64))
    assert status == 413
    assert f"{LIMIT} is the limit" in said


def test_a_body_at_the_limit_is_taken(server: Scoring) -> None:
    assert server.score(b"x" * LIMIT).json[0] == LIMIT


@pytest.mark.parametrize(("size", "status"), [(60 << 10, 200), (64 << 10, 431), (1 << 20, 431)])
def test_headers_are_bounded(server: Scoring, size: int, status: int) -> None:
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: " + b"a" * size
    reply = talk(server, head, b"\r\nContent-Length: 2\r\n\r\n{}")
    assert int(reply.split()[1]) == status


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        b"POST /score HTTP/1.1\r\nHost: x\nContent-Length: 2\r\n\r\n{}",
        b"POST /score HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_what_could_be_smuggled_ends_the_connection(server: Scoring, request_: bytes) -> None:
    behind = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    reply = talk(server, request_ + behind)
    assert reply.count(b"HTTP/1.1 ") == 1
    assert answer_of(reply)[0] in (400, 501)
    assert b"Connection: close" in reply


def test_a_chunked_body_is_taken(server: Scoring) -> None:
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = talk(server, head, b"3\r\nabc", b"\r\n2;ext=1\r\nde\r\n0\r\nT: u\r\n", b"\r\n")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])[0] == 5


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(server: Scoring) -> None:
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(head)
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_that_closes_its_side_still_gets_its_answer(server: Scoring) -> None:
    reply = talk(server, b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", half_close=True)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")


def test_http_1_0_is_answered_and_closed(server: Scoring) -> None:
    reply = talk(server, b"POST /score HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close" in reply


def test_clients_that_hang_up_anywhere_leave_nothing(server: Scoring) -> None:
    whole = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    for cut in range(1, len(whole)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
            sock.sendall(whole[:cut])
    assert server.score(b"{}").status == 200


def test_random_bytes(server: Scoring) -> None:
    chance = random.Random(7)
    pieces = [
        b"POST /score HTTP/1.1\r\n",
        b"Host: x\r\n",
        b"Content-Length: 5\r\n",
        b"\r\n",
        b"abc",
        b"GET / ",
    ]
    pieces += [
        b"Transfer-Encoding: chunked\r\n",
        b"3\r\n",
        b"0\r\n\r\n",
        b"\xff\x00",
        b"\n",
        b"HTTP/1.1\r\n",
        b"Expect: 100-continue\r\n",
    ]
    for _ in range(300):
        sent = b"".join(chance.choices(pieces, k=chance.randint(1, 12)))
        reply = talk(server, sent, half_close=True)
        for part in reply.split(b"HTTP/1.1 ")[1:]:
            assert part[:3].isdigit(), reply
        assert b"500" not in reply.split(b"\r\n")[0], (sent, reply)


def test_many_idle_connections_do_not_hinder_others(server: Scoring) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(300)]
    try:
        for number, sock in enumerate(idle):
            if number % 2:
                sock.sendall(b"POST /sc")
        assert server.score(b"{}").status == 200
        assert server.ask("GET", "/").status == 200
    finally:
        for sock in idle:
            sock.close()


def test_descriptors_are_given_back(server: Scoring) -> None:
    supervisor = Path(f"/proc/{server.process.pid}/fd")
    worker = Path(f"/proc/{server.score(b'{}').json[1]}/fd")
    before = len(list(supervisor.iterdir())), len(list(worker.iterdir()))
    for _ in range(50):
        server.score(b"{}")
        talk(server, b"nonsense\r\n\r\n")
    server.score(b"{}")

    def held() -> int:
        after = len(list(supervisor.iterdir())), len(list(worker.iterdir()))
        return max(after[0] - before[0], after[1] - before[1])

    until(lambda: held() <= 5, what="an end of the connections that were closed")
