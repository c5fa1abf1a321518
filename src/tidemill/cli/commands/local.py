"""`tidemill local`: local deployments of the SDK (`local=True`) without Docker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from tidemill.cli.errors import FAILED, USAGE, CliError, ServerGone
from tidemill.cli.framework import command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session

START_S, END_S, POLL_S = 15.0, 30.0, 0.02
MAX_PATH = 107  # bytes of a Unix socket's
local = group("local", "Local deployments of the Azure ML SDK (local=True), without Docker.")
FOLDER = click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where environments, logs and the socket lie (default ~/.local/share/tidemill/local).",
)


@command(local, "up", 'eval "$(tidemill local up)"')
@FOLDER
def up(session: Session, folder: Path | None) -> None:
    """Start what answers the SDK's calls to Docker, and print the variable that points it here.

    Local deployments then run as processes of yours, on this machine's Python, with the packages of their
    conda file and the scoring server that deployments have.
    """
    where = _folder(folder)
    path = where / "docker.sock"
    if len(os.fsencode(path)) > MAX_PATH:
        raise CliError(f"{path} is too long for a socket ({MAX_PATH} bytes): choose another --folder.", USAGE)
    if not _answers(path):
        _start(where, path)
    host = f"unix://{path}"
    if session.output == "table":
        click.echo(f"export DOCKER_HOST={host}")
        session.note("The SDK needs the package docker beside it: pip install docker")
    else:
        print_item(session, {"DOCKER_HOST": host, "pid": _pid(where)})


@command(local, "list", "tidemill local list --output json")
@FOLDER
def list_(session: Session, folder: Path | None) -> None:
    """Local deployments, with their addresses."""
    where = _folder(folder)
    rows = [_shown(one) for one in _ask(where, "/containers/json?all=1")]
    for row in rows:
        details = _ask(where, f"/containers/{row['id']}/json")
        ports = [port for found in details["NetworkSettings"]["Ports"].values() for port in found or ()]
        row["scoring_uri"] = f"http://localhost:{ports[0]['HostPort']}/score" if ports else ""
        row["exit_code"] = details["State"]["ExitCode"]
    columns = [
        Column("ENDPOINT", key("endpoint")),
        Column("DEPLOYMENT", key("deployment")),
        Column("STATE", key("state")),
        Column("ADDRESS", key("scoring_uri")),
    ]
    print_list(session, rows, columns, "There are no local deployments.")


@command(local, "down", "tidemill local down")
@FOLDER
def down(session: Session, folder: Path | None) -> None:
    """End it, and all local deployments. Their environments stay for the next time."""
    where = _folder(folder)
    pid = _pid(where)
    if pid is None or not _answers(where / "docker.sock"):
        session.note("It does not run.")
        return
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + END_S
    while (where / "pid").exists() or _alive(pid):
        if time.monotonic() > until:
            raise CliError(f"Process {pid} has not ended after {END_S:.0f} s.", FAILED)
        time.sleep(POLL_S)
    session.note("Ended.")


def _folder(given: Path | None) -> Path:
    folder = given or Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "tidemill" / "local"
    return folder.expanduser().absolute()


def _start(where: Path, path: Path) -> None:
    where.mkdir(parents=True, exist_ok=True)
    os.chmod(where, 0o700)
    log = where / "daemon.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tidemill.cli.local.daemon", str(where)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    until = time.monotonic() + START_S
    while not _answers(path):
        if process.poll() is not None or time.monotonic() > until:
            said = log.read_text(errors="replace").strip().splitlines()
            raise CliError(f"It did not start: {said[-1] if said else 'it said nothing'} ({log}).", FAILED)
        time.sleep(POLL_S)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        try:
            asked.connect(str(path))
        except OSError:
            return False
    return True


def _pid(where: Path) -> int | None:
    try:
        return int((where / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _ask(where: Path, path: str) -> Any:
    import http.client

    connection = http.client.HTTPConnection("localhost", timeout=30)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(where / "docker.sock"))
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except OSError:
        raise ServerGone('It does not run. Start it with: eval "$(tidemill local up)"') from None
    finally:
        connection.close()


def _shown(one: dict[str, Any]) -> dict[str, Any]:
    labels = one["Labels"]
    return {
        "id": one["Id"],
        "endpoint": labels.get("endpoint", ""),
        "deployment": labels.get("deployment", ""),
        "state": one["State"],
    }
