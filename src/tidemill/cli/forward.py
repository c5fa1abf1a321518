"""A listener on this machine's loopback whose connections end at a port of a job."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import click
from websockets.exceptions import ConnectionClosed

from tidemill.cli.errors import FAILED, NOT_FOUND, OK, CliError
from tidemill.cli.inside import output_of
from tidemill.cli.line import opened
from tidemill.cli.urls import Query, segment

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from tidemill.cli.session import Session

CHUNK = 32 * 1024


PAGES = {"JupyterLab": "lab?token="}  # where a key is part of the address


def service_of(session: Session, job: str, name: str, node: int) -> dict[str, Any]:
    """Raises CliError where the job has no such service, or it does not run."""
    path = f"{session.native}/jobs/{segment(job)}/services"
    found: list[dict[str, Any]] = session.client.get(path, {"node": node})["value"]
    service = next((one for one in found if one["name"] == name), None)
    if service is None:
        known = ", ".join(one["name"] for one in found) or "none (it may not run yet)"
        raise CliError(f"Job {job} has no service {name!r} on node {node}. It has: {known}.", NOT_FOUND)
    if service["error"]:
        raise CliError(f"Service {name} does not run: {service['error']}.", FAILED, "ServiceNotRunning")
    if not service["port"]:
        raise CliError(f"Service {name} has no port. Use: {service['reach']}", FAILED, "NoPort")
    return service


def page_of(session: Session, job: str, service: dict[str, Any], node: int) -> str:
    """What follows the address in a browser. The key is read inside the job: who may look there may have
    it."""
    if not service["key"]:
        return ""
    path = f"{session.native}/jobs/{segment(job)}/exec"
    # The job's folder is the parent of its working directory.
    key = output_of(session, path, {"node": node}, ["sh", "-c", 'cat "../$1"', "sh", service["key"]]).strip()
    if service["type"] not in PAGES:
        click.echo(f"Its password is {key}")
        return ""
    return PAGES[service["type"]] + key


def forward(
    session: Session,
    job: str,
    path: str,
    query: Query,
    local: int,
    remote: int,
    page: str = "",
    command: str = "tidemill port-forward",
) -> int:
    """Until it is interrupted. Raises CliError where the port cannot be reached, or not be had here."""
    opened(session, path, query).close()  # whether it can be, before anybody is told that it is
    try:
        listener = socket.create_server(("127.0.0.1", local))
    except OSError as error:
        raise CliError(
            f"Port {local} of this machine cannot be had ({error.strerror}). Take another: "
            f"{command} {job} 0:{remote}",
            FAILED,
            "PortInUse",
        ) from error
    with listener:
        port = listener.getsockname()[1]
        click.echo(f"Port {remote} of {job} is at http://127.0.0.1:{port}/{page} (Ctrl-C ends it)")
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
