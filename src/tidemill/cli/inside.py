"""A process inside a job or on a node, with this terminal (or these pipes) as its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

from tidemill.cli.errors import NOT_FOUND, CliError, ServerGone, did_you_mean
from tidemill.cli.line import opened
from tidemill.cli.urls import Query, segment

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from tidemill.cli.session import Session

CHUNK = 32 * 1024
SERVERLESS = "serverless"


def run(session: Session, path: str, query: Query, command: list[str]) -> int:
    """-> its exit code. A shell gets a terminal; a command gets pipes, so that its output is exact."""
    with_terminal = not command
    line = opened(session, path, query)
    with line:
        line.send(
            json.dumps(
                {
                    "command": command,
                    "terminal": _size() if with_terminal else None,
                    "term": os.environ.get("TERM", ""),
                }
            )
        )
        with _raw_terminal(line) if with_terminal else contextlib.nullcontext():
            # A read of the terminal cannot be broken off: the thread is left behind at the end.
            threading.Thread(target=_send_input, args=(line,), daemon=True).start()
            try:
                return _print_output(line)
            except ConnectionClosed as error:
                raise ServerGone(f"The line to it broke ({error}). {session.start_hint}") from error


def follow(session: Session, given: dict[str, Any]) -> None:
    """Prints what comes over a line that a password opens, until it ends or the user breaks it off. Raises
    ServerGone where it breaks."""
    line = opened(session, urlsplit(given["webSocketUri"]).path, {})
    with line, contextlib.suppress(KeyboardInterrupt, ConnectionClosedOK):
        try:
            line.send(given["password"])
            while True:
                click.echo(line.recv(), nl=False)
        except ConnectionClosedError as error:
            raise ServerGone(f"The line to it broke ({error}). {session.start_hint}") from error


def node_named(session: Session, name: str) -> str:
    """-> the compute whose node that is. Raises CliError naming what there is."""
    nodes: dict[str, str] = {}
    computes: list[str] = []
    for compute in session.client.get(f"{session.native}/computes")["value"]:
        detail = session.client.get(f"{session.native}/computes/{segment(compute['name'])}")
        computes.append(compute["name"])
        nodes |= {node["id"]: compute["name"] for node in detail.get("nodes_list") or []}
    if name in nodes:
        return nodes[name]
    if name.startswith(f"{SERVERLESS}-"):  # of a job without a compute: no compute lists it
        return SERVERLESS
    if name in computes:
        its = [node for node, compute in nodes.items() if compute == name]
        there = f"its nodes: {', '.join(its)}" if its else "it has no node open now"
        raise CliError(
            f"{name} is a compute; {there}. Give a node: tidemill ssh NODE.", NOT_FOUND, "NotFound"
        )
    jobs = session.client.get(f"{session.native}/jobs", {"state": "Running", "limit": 100})["value"]
    hint = did_you_mean(name, [*nodes, *(job["name"] for job in jobs)])
    raise CliError(
        f"No job and no node is called {name!r}.{hint} See: tidemill job list, tidemill compute list.",
        NOT_FOUND,
        "NotFound",
    )


def output_of(session: Session, path: str, query: Query, command: list[str]) -> str:
    """What a command there writes. Raises CliError with its errors where it fails."""
    out, errors = bytearray(), bytearray()
    with opened(session, path, query) as line:
        line.send(json.dumps({"command": command, "terminal": None}))
        line.send(json.dumps({"end": True}))
        for message in line:
            if isinstance(message, bytes):
                (out if message[0] == 1 else errors).extend(message[1:])
                continue
            told: dict[str, Any] = json.loads(message)
            if told.get("exit") == 0:
                return out.decode(errors="replace")
            break
    text = errors.decode(errors="replace").strip()
    raise CliError(f"{command[0]} failed inside the job: {text or 'the session ended'}", 1, "CommandFailed")


def _print_output(line: ClientConnection) -> int:
    for message in line:
        if isinstance(message, bytes):
            _write(message[0], message[1:])
            continue
        told: dict[str, Any] = json.loads(message)
        if "exit" in told:
            return int(told["exit"])
        error = told.get("error") or {}
        raise CliError(error.get("message") or message, 1, error.get("code") or "SessionEnded")
    raise ServerGone("The line was closed; the server may have stopped.")


def _write(stream: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


def _send_input(line: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        while data := os.read(sys.stdin.fileno(), CHUNK):
            line.send(data)
        line.send(json.dumps({"end": True}))


@contextlib.contextmanager
def _raw_terminal(line: ClientConnection) -> Iterator[None]:
    """Every key goes there as it is pressed; a new size of the window does, too."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    changed = signal.getsignal(signal.SIGWINCH)

    def resized(*_: Any) -> None:
        # Not from within the handler: the main thread may be in the midst of using the line.
        threading.Thread(target=_resize, args=(line,), daemon=True).start()

    tty.setraw(fd)
    signal.signal(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, changed)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _resize(line: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        line.send(json.dumps({"resize": _size()}))


def _size() -> list[int]:
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    return [min(rows or 24, 1000), min(columns or 80, 1000)]  # 0: a terminal that does not know
