"""The proxy of a node's network: what it lets through, and how it says no. Everything is on the loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tidemill.agent import egress as proxies
from tidemill.agent import relay
from tidemill.sandbox import egress


class Server:
    """Answers each connection with what it was sent, in HTTP."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.seen: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            data = sock.recv(65536)
            self.seen.append(data)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere")
            sock.close()


class Running:
    def __init__(self, line: str) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.names: dict[str, str] = {}  # what they resolve to
        self.asked: list[str] = []
        proxy = proxies.Proxy(egress.parse(line), self._resolve)
        made = relay.Relay(theirs, [(listener, relay.PROXY)], {}, proxy)
        self.thread = threading.Thread(target=made.serve, daemon=True)
        self.thread.start()

    def _resolve(self, host: str, port: int, **more: int) -> list:
        if host[0].isdigit():
            return socket.getaddrinfo(host, port, **more)
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.names[host], port))]

    def ask(self, request: bytes) -> bytes:
        with socket.create_connection(self.address, timeout=60) as sock:
            sock.sendall(request)
            parts = [sock.recv(65536)]
            while parts[-1]:
                parts.append(sock.recv(65536))
            return b"".join(parts)

    def status(self, request: bytes) -> str:
        return self.ask(request).split(b"\r\n")[0].decode()

    def close(self) -> None:
        self.control.close()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.listener.close()


@pytest.fixture
def running(server: Server) -> Iterator[Running]:
    made = Running(f"127.0.0.1:{server.port} listed.example")
    yield made
    made.close()


def connect(host: str, port: int) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def test_a_tunnel_to_what_is_listed(running: Running, server: Server) -> None:
    said = running.ask(connect("127.0.0.1", server.port) + b"early data")
    assert said.startswith(b"HTTP/1.1 200 Connected\r\n\r\nHTTP/1.1 200 OK")
    assert said.endswith(b"here")
    assert server.seen == [b"early data"]


def test_plain_http_is_asked_for_as_its_server_expects(running: Running, server: Server) -> None:
    request = f"GET http://me@127.0.0.1:{server.port}/a/b?c=d HTTP/1.1\r\nHost: other.example\r\n"
    request += "Proxy-Authorization: Basic xyz\r\nProxy-Connection: keep-alive\r\nX-Own: 1\r\n\r\n"
    assert running.ask(request.encode()).endswith(b"here")
    host = f"Host: 127.0.0.1:{server.port}"
    assert server.seen[0].decode().split("\r\n")[:-2] == [
        "GET /a/b?c=d HTTP/1.1",
        host,
        "X-Own: 1",
        "Connection: close",
    ]


def test_what_is_not_listed_is_refused_and_never_resolved(running: Running, server: Server) -> None:
    said = running.status(connect("secrets.attacker.example", 443))
    assert (
        said == "HTTP/1.1 403 secrets.attacker.example:443 is not on the list of what this compute may reach"
    )
    assert server.seen == running.asked == []


def test_a_listed_name_that_leads_to_this_host_is_refused(running: Running, server: Server) -> None:
    names = running.names
    names["listed.example"] = "127.0.0.2"
    said = running.status(connect("listed.example", server.port))
    assert said.startswith("HTTP/1.1 403 listed.example is 127.0.0.2, which is not a public address")
    names["listed.example"] = "127.0.0.1"  # listed as an address, too
    assert running.status(connect("listed.example", server.port) + b"x") == "HTTP/1.1 200 Connected"


def test_the_metadata_address_is_refused(running: Running) -> None:
    assert " 403 169.254.169.254" in running.status(connect("169.254.169.254", 80))
    assert " 403 169.254.169.254" in running.status(b"GET http://169.254.169.254/metadata HTTP/1.1\r\n\r\n")


def test_this_hosts_own_address_is_known() -> None:
    assert proxies._is_own(socket.AF_INET, ("127.0.0.1", 80))
    assert not proxies._is_own(socket.AF_INET, ("192.0.2.1", 80))


def test_what_cannot_be_reached_or_resolved_says_so(running: Running) -> None:
    running.close()
    with socket.socket() as silent:  # nobody listens there, and nobody else gets the port
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        again = Running(f"127.0.0.1:{port} listed.example")
        assert "Connection refused" in again.status(connect("127.0.0.1", port))
    assert "could not be resolved" in again.status(connect("listed.example", 443))
    again.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", " 400 "),
        (b"GET / HTTP/1.1\r\n\r\n", " 400 "),
        (b"GET ftp://a/ HTTP/1.1\r\n\r\n", " 400 "),
        (b"CONNECT nohost HTTP/1.1\r\n\r\n", " 400 "),
        (b"CONNECT a:99999 HTTP/1.1\r\n\r\n", " 400 "),
        (b"CONNECT \xff\xfe:1 HTTP/1.1\r\n\r\n", " 403 "),
        (b"GET http://[::1/ HTTP/1.1\r\n\r\n", " 400 "),
        (b"GET http://a/\r\nX: \x00" + b"x" * 40000, " 431 "),
    ],
)
def test_what_is_no_request_is_answered(running: Running, request_bytes: bytes, status: str) -> None:
    assert status in running.status(request_bytes)


def test_a_client_that_says_nothing_is_given_up(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = proxies.HEAD_S
    monkeypatch.setattr(proxies, "HEAD_S", 0.1)
    before = time.monotonic()
    assert " 408 " in running.status(b"CONNECT ")
    assert time.monotonic() - before < usual
