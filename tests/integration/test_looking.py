"""`tidemill ssh` and `tidemill port-forward`: into running jobs, through the server, with a role."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobserver import JobServer, until
from lines import begin, line, person, refused
from websockets.exceptions import ConnectionClosed

SCIENTIST = "AzureML Data Scientist"
SERVE = """
import http.server
server = http.server.ThreadingHTTPServer(("127.0.0.1", 7070), http.server.SimpleHTTPRequestHandler)
print("up", flush=True)  # it listens
server.serve_forever()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("look") / "home")
    server.start()
    server.cluster("cpu", high=2)
    yield server
    server.end()


@pytest.fixture(scope="module")
def job(server: JobServer) -> str:
    """One that runs as long as the module's tests."""
    command = f"echo mine > /tmp/own; echo from-the-job > page; exec python3 -c '{SERVE}'"
    name = server.submit("looked-at", command, computeId=compute(server))
    running(server, name)
    return name


def running(server: JobServer, name: str) -> None:
    """Its command has said "up", and its state has followed."""
    server.until_log(name, "up")
    server.until_state(name, "Running")


def compute(server: JobServer) -> str:
    return f"{server.workspace}/computes/cpu"


def test_a_command(server: JobServer, job: str) -> None:
    done = server.cli("ssh", job, "--", "sh", "-c", "cat /tmp/own page; echo odd >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("mine\nfrom-the-job\n", "odd\n", 7)
    done = server.cli("ssh", job, "--", "printenv", "AZUREML_RUN_ID")
    assert done.stdout.strip() == job
    assert server.cli("ssh", job, "--", "cat", str(server.home / "config.json")).returncode == 1


def test_input_from_a_pipe(server: JobServer, job: str) -> None:
    words = [sys.executable, "-m", "tidemill.cli.main", "--home", str(server.home), "ssh", job]
    data = os.urandom(2 << 20)
    done = subprocess.run([*words, "--", "cat"], input=data, capture_output=True, timeout=60)
    assert done.stdout == data
    done = subprocess.run(words, input=b"echo $((6 * 7)); exit 3\n", capture_output=True, timeout=60)
    assert (done.stdout, done.returncode) == (b"42\n", 3)


def test_a_terminal(server: JobServer, job: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["--home", str(server.home), "ssh", job]
        os.execv(sys.executable, [sys.executable, "-m", "tidemill.cli.main", *words])
    try:
        seen = ""

        def read(pattern: str, again: bytes = b"") -> None:
            nonlocal seen
            end = time.monotonic() + 60
            while not re.search(pattern, seen):
                assert time.monotonic() < end, seen
                os.write(terminal, again)
                if select.select([terminal], [], [], 0.1)[0]:
                    seen += os.read(terminal, 4096).decode(errors="replace")

        read(r"[$#] ")
        os.write(terminal, b"cat /tmp/own; tty\n")
        read(r"mine\r\n/dev/pts/\d")
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 97, 0, 0))
        os.kill(pid, signal.SIGWINCH)
        read("41 97", again=b"stty size\n")
        os.write(terminal, b"sh -c 'echo be\"\"gun; exec sleep 100'\n")
        read("begun")
        os.write(terminal, b"\x03")
        os.write(terminal, b"exit 9\n")
        read("exit 9")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 9
    finally:
        os.close(terminal)


def test_what_cannot_be_looked_into(server: JobServer, job: str) -> None:
    done = server.cli("ssh", "nothing", "--", "true")
    assert done.returncode == 3
    assert "nothing" in done.stderr
    ended = server.submit("ended", "true", computeId=compute(server))
    server.wait(ended)
    done = server.cli("ssh", ended, "--", "true")
    assert done.returncode == 4
    assert "has ended (Completed)" in done.stderr
    done = server.cli("ssh", job, "--node", "3", "--", "true")
    assert "there is no node 3" in done.stderr
    assert server.cli("ssh", job, "--", "no-such-program").returncode == 127
    assert " ERROR " not in (server.home / "logs" / "control.log").read_text(), "a refusal is no fault"


def test_it_ends_with_the_job(server: JobServer) -> None:
    # Its own end takes what is left inside with it, so it waits for the visitor's.
    last = "while kill -0 $(cat /tmp/visitor) 2> /dev/null; do sleep 0.01; done; exit 1"
    name = server.submit("short", f"trap '{last}' TERM; echo up; sleep 600 & wait", computeId=compute(server))
    running(server, name)
    with line(server, server.token(), f"jobs/{name}/exec") as socket:
        begin(socket, "sh", "-c", "echo $$ > /tmp/visitor; echo in; sleep 600")
        assert socket.recv(60) == b"\x01in\n"
        server.cancel(name)
        told = json.loads(socket.recv(60))
        assert told == {"exit": 128 + signal.SIGTERM}  # a cancel asks every process of the job first
    assert server.wait(name)["status"] == "Canceled"


def test_roles(server: JobServer, job: str) -> None:
    reader = person(server, "rita", "Reader")
    status, error = refused(server, reader, f"jobs/{job}/exec")
    assert (status, error["code"]) == (403, "AuthorizationFailed")
    assert "jobs/exec/action" in error["message"]
    assert refused(server, reader, f"jobs/{job}/ports/7070")[0] == 403
    assert refused(server, "nonsense", f"jobs/{job}/exec")[0] == 401
    scientist = person(server, "sam", SCIENTIST)
    with line(server, scientist, f"jobs/{job}/exec") as socket:
        begin(socket, "echo", "hello")
        assert socket.recv(60) == b"\x01hello\n"
        assert json.loads(socket.recv(60)) == {"exit": 0}
    # What the owner's identity may, its visitors could do, too.
    private = server.submit(
        "private", "echo up; sleep 600", computeId=compute(server), identity={"identityType": "UserIdentity"}
    )
    running(server, private)
    status, error = refused(server, scientist, f"jobs/{private}/exec")
    assert (status, error["code"]) == (403, "AuthorizationFailed")
    assert "acts for an identity" in error["message"]
    assert server.cli("ssh", private, "--", "echo", "own").stdout == "own\n"
    server.cancel(private)


def test_a_role_that_is_taken_away_ends_it(server: JobServer, job: str) -> None:
    token = person(server, "tom", SCIENTIST)
    with line(server, token, f"jobs/{job}/exec") as socket:
        begin(socket, "sh", "-c", "echo $$; exec sleep 600")
        inner = socket.recv(60)[1:].decode().strip()
        done = server.cli("access", "revoke", "tom", SCIENTIST, "--scope", server.workspace)
        assert done.returncode == 0, done.stderr
        assert json.loads(socket.recv(60))["error"]["code"] == "AuthorizationFailed"
        with pytest.raises(ConnectionClosed):
            socket.recv(60)
    until(lambda: server.cli("ssh", job, "--", "test", "-d", f"/proc/{inner}").returncode == 1)


def test_other_sites_open_no_line(server: JobServer, job: str) -> None:
    assert refused(server, server.token(), f"jobs/{job}/exec", Origin="https://evil.example")[1]["code"] == (
        "ForeignOrigin"
    )
    base = server.state["addresses"]["http"].removeprefix("http://")
    with socket.create_connection(base.split(":")) as raw:  # a name that leads here by DNS rebinding
        path = f"/api/v1{server.workspace}/jobs/{job}/exec"
        raw.sendall(
            f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Authorization: Bearer {server.token()}\r\n\r\n".encode()
        )
        assert b" 421 " in raw.recv(4096).split(b"\r\n")[0]


def test_bad_messages(server: JobServer, job: str) -> None:
    for first in ("x", '{"command": "ls"}', b"bytes"):
        with line(server, server.token(), f"jobs/{job}/exec") as socket:
            socket.send(first)
            assert json.loads(socket.recv(60))["error"]["code"] == "BadRequest"
    for port in ("0", "65536", "http"):
        assert refused(server, server.token(), f"jobs/{job}/ports/{port}")[0] == 400
    status, error = refused(server, server.token(), f"jobs/{job}/ports/7071")
    assert (status, error["code"]) == (409, "PortNotReached")


def test_it_is_in_the_activity_log_and_what_passed_is_not(server: JobServer, job: str) -> None:
    server.cli("ssh", job, "--", "echo", "s3cr3t-word")
    records: list[dict[str, Any]] = []

    def ended() -> bool:  # it is recorded a moment after it has been told
        done = server.cli("activity", "list", "--what", "jobs/exec/action", "--output", "json")
        assert done.returncode == 0, done.stderr
        assert "s3cr3t-word" not in done.stdout
        records[:] = [r for r in json.loads(done.stdout) if r["action"].endswith("/jobs/exec/action")]
        return any(r["method"] == "END" and "exit code 0" in r["reason"] for r in records)

    until(ended, what="the record of its end")
    assert any(r["status"] == 101 for r in records)


def test_ports(server: JobServer, job: str) -> None:
    words = [sys.executable, "-m", "tidemill.cli.main", "--home", str(server.home)]
    process = subprocess.Popen(
        [*words, "port-forward", job, "0:7070"], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert address, said
        for _ in range(3):
            with urllib.request.urlopen(f"{address[0]}/page", timeout=60) as reply:
                assert reply.read() == b"from-the-job\n"
        found: list[bytes] = []

        def fetch() -> None:
            with urllib.request.urlopen(f"{address[0]}/page", timeout=60) as reply:
                found.append(reply.read())

        threads = [threading.Thread(target=fetch) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [b"from-the-job\n"] * 8
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "Nothing was reached at port 7071" in server.cli("port-forward", job, "0:7071").stderr
    assert server.cli("port-forward", job, "0:x").returncode == 2
    assert Path(server.home, "server.json").exists()
