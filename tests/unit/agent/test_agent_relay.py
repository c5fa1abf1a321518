"""The byte relay between a node's network and the service: every byte, ends of one direction, restarts."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tidemill.agent import relay


class Running:
    """A relay in a thread of its own, in front of `target`; `address` is what a client connects to."""

    def __init__(self, target: int, source: str = "127.0.0.1") -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.relay = relay.Relay(theirs, [(listener, "https")], {"https": target}, source=source)
        self.thread = threading.Thread(target=self.relay.serve, daemon=True)
        self.thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=60)

    def close(self) -> None:
        self.control.close()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def service() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        yield listener


@pytest.fixture
def running(service: socket.socket) -> Iterator[Running]:
    made = Running(service.getsockname()[1])
    yield made
    made.close()


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until_eof(sock: socket.socket) -> bytes:
    parts: list[bytes] = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def test_every_byte_both_ways_at_once(running: Running, service: socket.socket) -> None:
    sent = random.Random(3).randbytes(20 << 20)
    client = running.connect()
    server, _ = service.accept()
    got: dict[str, bytes] = {}

    def answer() -> None:
        server.sendall(sent[::-1])
        server.shutdown(socket.SHUT_WR)

    def take() -> None:
        got["server"] = until_eof(server)

    threads = [in_thread(answer), in_thread(take)]
    writer = in_thread(lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR))[-1])
    got["client"] = until_eof(client)
    for thread in (*threads, writer):
        thread.join(60)
    assert hashlib.sha256(got["server"]).digest() == hashlib.sha256(sent).digest()
    assert hashlib.sha256(got["client"]).digest() == hashlib.sha256(sent[::-1]).digest()


def test_an_end_of_one_direction_leaves_the_other(running: Running, service: socket.socket) -> None:
    client = running.connect()
    server, _ = service.accept()
    client.sendall(b"asked")
    client.shutdown(socket.SHUT_WR)
    assert until_eof(server) == b"asked"
    server.sendall(b"answered")  # long after the client has said its last
    server.close()
    assert until_eof(client) == b"answered"


def test_a_reset_is_passed_on(running: Running, service: socket.socket) -> None:
    client = running.connect()
    server, _ = service.accept()
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, relay._RESET)
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_slow_reader_stops_the_writer(running: Running, service: socket.socket) -> None:
    client = running.connect()
    server, _ = service.accept()
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):
        client.sendall(bytes(1 << 28))
    held = max(len(end.out) for end in running.relay._ends.values())
    assert held <= 2 * relay.CHUNK
    del server


def test_nothing_is_done_while_nobody_speaks(running: Running, service: socket.socket) -> None:
    pairs = [(running.connect(), service.accept()[0]) for _ in range(4)]
    pairs[0][0].shutdown(socket.SHUT_WR)
    pairs[1][1].shutdown(socket.SHUT_WR)
    assert pairs[0][1].recv(1) == b""
    assert pairs[1][0].recv(1) == b""
    ident = running.thread.ident
    assert ident is not None
    clock = time.pthread_getcpuclockid(ident)  # not of what others left in this process
    before = time.clock_gettime(clock)
    time.sleep(0.3)
    assert time.clock_gettime(clock) - before < 0.1


@pytest.fixture
def down() -> Iterator[socket.socket]:
    """A service that does not listen; its port is nobody else's."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(60)
        yield made


def test_a_connection_waits_while_the_service_restarts(down: socket.socket) -> None:
    running = Running(down.getsockname()[1])
    client = running.connect()
    client.sendall(b"early")
    end = time.monotonic() + 60
    while not running.relay._waiting:  # it found nobody, and tries again later
        assert time.monotonic() < end
        time.sleep(0.005)
    down.listen()
    with down.accept()[0] as server:
        assert server.recv(16) == b"early"
        server.sendall(b"here")
        assert client.recv(16) == b"here"
    running.close()


def test_a_service_that_came_back_elsewhere_is_found(service: socket.socket, down: socket.socket) -> None:
    running = Running(down.getsockname()[1])
    client = running.connect()
    running.control.send(b'{"targets": {"https": %d}}' % service.getsockname()[1])
    server, _ = service.accept()
    server.sendall(b"moved")
    assert client.recv(16) == b"moved"
    running.close()


def test_a_service_that_does_not_come_back_is_given_up(
    down: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "HOLD_S", 0.1)
    running = Running(down.getsockname()[1])
    with pytest.raises(ConnectionResetError):
        running.connect().recv(1)
    running.close()


def test_more_ports_come_later(running: Running, service: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as more:
        socket.send_fds(running.control, [b'{"listen": ["https"]}'], [more.fileno()])
        address = more.getsockname()
    client = socket.create_connection(address, timeout=60)
    server, _ = service.accept()
    server.sendall(b"new")
    assert client.recv(16) == b"new"


def test_too_many_connections_wait_their_turn(
    service: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOST", 2)
    running = Running(service.getsockname()[1])
    clients = [running.connect() for _ in range(3)]
    first, _ = service.accept()
    second, _ = service.accept()
    service.settimeout(0.2)
    with pytest.raises(TimeoutError):
        service.accept()
    for sock in (clients[0], first):
        sock.close()
    service.settimeout(60)
    third, _ = service.accept()
    third.sendall(b"mine")
    assert clients[2].recv(4) == b"mine"
    del second
    running.close()


def test_many_connections_leave_no_descriptor(running: Running, service: socket.socket) -> None:
    def one() -> None:
        client = running.connect()
        server, _ = service.accept()
        client.sendall(b"a")
        assert server.recv(1) == b"a"
        client.close()
        assert server.recv(1) == b""
        server.close()

    one()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        one()
    end = time.monotonic() + 60
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < end:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_each_node_comes_from_an_address_of_its_own(service: socket.socket) -> None:
    sources = [relay.source_of("home", f"cpu-{number}") for number in range(50)]
    assert len(set(sources)) == 50
    assert all(64 <= int(source.split(".")[1]) < 128 for source in sources)
    running = Running(service.getsockname()[1], sources[0])
    with running.connect():
        _, (address, _) = service.accept()
    running.close()
    assert address == sources[0]
