"""A listener on this machine's loopback whose connections end at a port of a job."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import click
from websockets.exceptions import ConnectionClosed

from tidemill.cli.errors import FAILED, OK, CliError
from tidemill.cli.line import opened
from tidemill.cli.urls import Query

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from tidemill.cli.session import Session

CHUNK = 32 * 1024


def forward(session: Session, job: str, path: str, query: Query, local: int, remote: int) -> int:
    """Until it is interrupted, or the job no longer lets anybody in. Raises CliError with the reason."""
    opened(session, path, query).close()  # whether it can be, before anybody is told that it is
    try:
        listener = socket.create_server(("127.0.0.1", local))
    except OSError as error:
        raise CliError(
            f"Port {local} of this machine cannot be had ({error.strerror}). Take another: "
            f"tidemill port-forward {job} 0:{remote}",
            FAILED,
            "PortInUse",
        ) from error
    with listener:
        port = listener.getsockname()[1]
        click.echo(f"Port {remote} of {job} is at http://127.0.0.1:{port} (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=_serve, args=(session, path, query, connection), daemon=True).start()
    return OK


def _serve(session: Session, path: str, query: Query, connection: socket.socket) -> None:
    with connection:
        try:
            line = opened(session, path, query)
        except CliError as error:
            session.note(f"Error: {error.message}")
            return
        with line:
            sending = threading.Thread(target=_send, args=(connection, line), daemon=True)
            sending.start()
            _receive(connection, line)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
            sending.join()


def _send(connection: socket.socket, line: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        while data := connection.recv(CHUNK):
            line.send(data)
        line.send(json.dumps({"end": True}))


def _receive(connection: socket.socket, line: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        for message in line:
            if isinstance(message, bytes):
                connection.sendall(message)
            elif "end" in json.loads(message):
                connection.shutdown(socket.SHUT_WR)
