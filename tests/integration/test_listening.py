"""Listening beyond loopback: only with a way to sign in, only over TLS, only under known names."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import TidemillError
from tidemill.server import launch

TIDEMILL = str(Path(sys.executable).with_name("tidemill"))
ADDRESS = "127.7.7.7"  # of this machine, but not one that is always listened on
NAME = "gpu1.tidemill.test"
PORTS = {"https_port": 0, "http_port": 0, "data_port": 0}


def cli(home: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    argv = [TIDEMILL, "--home", str(home), *words]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    yield home
    launch.down(home)


@pytest.fixture(scope="module")
def refusals(home: Path) -> list[str]:
    """What is refused before anybody can sign in; then a user is made."""
    refused: list[str] = []
    for words in (["--listen", ADDRESS], ["--listen", "0.0.0.0"], ["--listen", "gpu1"], ["--name", NAME]):
        done = cli(home, "up", "--detach", *words)
        assert done.returncode == 4, done.stdout
        refused.append(done.stderr)
    launch.up(home, **PORTS, detach=True)
    assert cli(home, "access", "create-user", "ann").returncode == 0
    done = cli(home, "access", "set-password", "ann", "--password-stdin", stdin="correct horse battery\n")
    assert done.returncode == 0, done.stderr
    launch.down(home)
    return refused


@pytest.fixture(scope="module")
def server(home: Path, refusals: list[str]) -> dict[str, Any]:
    return launch.up(home, **PORTS, listen=ADDRESS, name=NAME, detach=True)


def test_refusals_name_what_to_do(refusals: list[str]) -> None:
    nobody, everywhere, no_address, no_listen = refusals
    assert "nobody but this home's owner could sign in" in nobody
    assert "tidemill access set-password" in nobody
    assert "Add: --name HOST" in everywhere
    assert "'gpu1' is no IP address" in no_address
    assert "Add: --listen" in no_listen


def get(
    server: dict[str, Any], at: str, which: str, path: str, host: str | None = None, home: Path | None = None
) -> tuple[int, bytes]:
    """GET over TLS, verified with the home's CA for `host` where `home` is given."""
    port = int(server["addresses"][which].rsplit(":", 1)[1])
    context = ssl.create_default_context(cafile=None if home is None else str(home / "tls" / "ca.pem"))
    if home is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection((at, port), timeout=60)
    connection = http.client.HTTPConnection(at, port, timeout=60)
    connection.sock = context.wrap_socket(raw, server_hostname=host or "localhost")
    try:
        connection.request("GET", path, headers={"Host": f"{host or at}:{port}"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["localhost", NAME, ADDRESS])
@pytest.mark.parametrize("at", ["127.0.0.1", ADDRESS])
def test_known_names_are_served_and_verified(server: dict[str, Any], home: Path, at: str, host: str) -> None:
    assert get(server, at, "https", "/metadata/endpoints", host, home)[0] == 200
    assert get(server, at, "data", "/healthz", host, home)[0] == 200


@pytest.mark.parametrize(
    "path", ["/metadata/endpoints", "/ui", "/subscriptions", "/api/v1/status", "/msi/token"]
)
def test_other_hosts_are_misdirected_on_every_route(server: dict[str, Any], path: str) -> None:
    status, body = get(server, ADDRESS, "https", path, "rebound.evil.test")
    assert status == 421
    assert b"rebound.evil.test" in body
    assert NAME.encode() in body


def test_the_storage_server_checks_the_host_too(server: dict[str, Any]) -> None:
    status, body = get(server, ADDRESS, "data", "/healthz", "rebound.evil.test")
    assert status == 421
    assert b"MisdirectedRequest" in body


def test_the_gateway_is_there_with_the_same_certificates(server: dict[str, Any], home: Path) -> None:
    status, body = get(server, ADDRESS, "gateway", "/endpoints/s/g/w/none/score", NAME, home)
    assert (status, b"EndpointNotFound" in body) == (404, True)


def test_plain_http_stays_on_loopback(server: dict[str, Any], home: Path) -> None:
    ports = [
        int(server["addresses"]["http"].rsplit(":", 1)[1]),
        json.loads((home / "gateway.json").read_text())["http_port"],
    ]
    for port in ports:
        with socket.socket() as sock:
            sock.settimeout(5)
            assert sock.connect_ex((ADDRESS, port)) != 0
    connection = http.client.HTTPConnection(
        ADDRESS, int(server["addresses"]["https"].rsplit(":", 1)[1]), timeout=5
    )
    connection.request("GET", "/metadata/endpoints")
    with pytest.raises((http.client.HTTPException, OSError)):  # no plain http where TLS is spoken
        connection.getresponse()


def test_it_is_kept_for_the_next_start_and_a_killed_server_adopts(server: dict[str, Any], home: Path) -> None:
    import os
    import signal

    os.kill(server["pid"], signal.SIGKILL)
    os.waitpid(server["pid"], 0)
    again = launch.up(home, **PORTS, detach=True)
    assert again["listen"] == [ADDRESS]
    assert again["names"] == [NAME, ADDRESS]
    assert again["data_pid"] == server["data_pid"]
    assert again["gateway_pid"] == server["gateway_pid"]
    assert get(again, ADDRESS, "https", "/metadata/endpoints", NAME, home)[0] == 200
    os.kill(again["pid"], signal.SIGKILL)
    os.waitpid(again["pid"], 0)
    # What is asked for now is another: the data process is started anew for it.
    local = launch.up(home, **PORTS, listen="localhost", detach=True)
    assert local["listen"] == []
    assert local["data_pid"] != server["data_pid"]
    assert local["gateway_pid"] != server["gateway_pid"]
    for which in ("https", "data", "gateway"):
        with socket.socket() as sock:
            sock.settimeout(5)
            assert sock.connect_ex((ADDRESS, int(local["addresses"][which].rsplit(":", 1)[1]))) != 0
    assert json.loads((home / "config.json").read_bytes())["names"] == []


def test_an_address_of_another_machine(home: Path) -> None:
    launch.down(home)
    with pytest.raises(TidemillError, match=r"--listen 192\.0\.2\.1: this machine cannot listen there"):
        launch.up(home, **PORTS, listen="192.0.2.1", detach=True)
    with pytest.raises(TidemillError, match="--certificate needs --key"):
        launch.up(home, **PORTS, listen=ADDRESS, name=NAME, certificate="x.pem", detach=True)
    assert launch.up(home, **PORTS, detach=True)["listen"] == []  # what was refused is not kept
