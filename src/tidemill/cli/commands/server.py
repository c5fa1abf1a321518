"""`tidemill up | down | status | env`: the server of a home."""

from __future__ import annotations

import time
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.errors import NOT_RUNNING, OK, ServerGone
from tidemill.cli.framework import Whole, command
from tidemill.cli.output import fact_lines, print_item
from tidemill.cli.session import Session


@command(
    None,
    "up",
    "tidemill up --detach\ntidemill up --home ./lab --https-port 9443 --http-port 9440 --data-port 9445\n"
    "tidemill up --listen 0.0.0.0 --name gpu1.example.org",
)
@click.option("--detach", "-d", is_flag=True, help="Return when it is ready; it runs on in the background.")
@click.option(
    "--https-port",
    type=Whole(0, 65535),
    help="Port of the Azure API (default: that of the last start, at first 8443; 0: any free one).",
)
@click.option("--http-port", type=Whole(0, 65535), help="Port of the loopback http listener (at first 8440).")
@click.option("--data-port", type=Whole(0, 65535), help="Port of the storage server (at first 8445).")
@click.option(
    "--gateway-port",
    type=Whole(0, 65535),
    help="Port of online endpoints (at first the one after --data-port).",
)
@click.option("--database", metavar="URL", help="Database (default: SQLite in the home).")
@click.option(
    "--capacity",
    type=click.Choice(("elastic", "strict")),
    help="elastic: nodes share this host; strict: a size that does not fit is refused.",
)
@click.option(
    "--listen",
    metavar="ADDRESS[,…]",
    help="IP addresses to listen on beside loopback, for https and storage; 0.0.0.0: all; localhost: none. "
    "Kept for the next start. Needs a way for others to sign in.",
)
@click.option(
    "--name", metavar="HOST[,…]", help="Names that others reach this machine by; the certificate has them."
)
@click.option(
    "--certificate",
    metavar="FILE",
    help="A certificate (PEM) of your own for --name; `home`: the home's CA issues it (the default).",
)
@click.option("--key", metavar="FILE", help="The key of --certificate (PEM).")
@click.option(
    "--images",
    type=click.Choice(("use", "prefer-host", "require")),
    help="use: jobs run in their environment's image; prefer-host: on the host; require: Azure's own, too.",
)
@click.option(
    "--isolation",
    type=click.Choice(("auto", "full", "rootless", "plain")),
    help="How jobs are kept apart: the best this host can give (auto), or that level or none at all.",
)
@click.option(
    "--keep-root",
    is_flag=True,
    help="Started by root: stay root, for ports below 1024 and files that only root may read. Without it, "
    "the server becomes a user of its own.",
)
@click.option(
    "--require-isolation",
    type=click.Choice(("none", "plain", "rootless", "full")),
    help="Refuse to run any job below this level (see: tidemill doctor).",
)
def up(session: Session, detach: bool, **flags: Any) -> None:
    """Start the server of a home; a new home is made on the first start."""
    from tidemill.server import launch

    given = {key: value for key, value in flags.items() if value is not None}

    def ready(state: dict[str, Any]) -> None:
        show_state(session, state)
        if session.output == "table":
            session.note(f'Use the Azure ML SDK with: eval "$(tidemill env{session.home_flag})"')
            if not detach:
                session.note("Ctrl-C stops the server; jobs that run go on.")

    launch.up(session.home, detach=detach, on_ready=ready, **given)


@command(None, "down", "tidemill down")
def down(session: Session) -> None:
    """Stop the server, or a connection; jobs that run go on and are found again at the next start."""
    from tidemill.server import launch

    before = launch.status(session.home)
    answer = launch.down(session.home)
    if session.output == "table":
        session.note(f"{session.home}: {'stopped' if answer['stopped'] else 'no server was running'}.")
        jobs = before.get("running") or 0
        if jobs and answer["stopped"]:
            what = "1 job goes" if jobs == 1 else f"{jobs} jobs go"
            session.note(f"{what} on without it and will be found again at the next start.")
    else:
        print_item(session, answer)


@command(None, "status", "tidemill status --output json")
def status(session: Session) -> int:
    """Say what runs and where it is reached; exit code 5 when nothing does."""
    from tidemill.server import launch

    found = launch.status(session.home)
    alive = found.get("pid") is not None  # "running" counts jobs, where a server answers
    if not alive and session.output == "table":
        raise ServerGone(f"No server is running for the home {session.home}. {session.start_hint}")
    show_state(session, found)
    if alive and found.get("answers") is False:
        session.note(f"It does not answer: {found.get('problem') or 'it is still starting'}.")
    return OK if found.get("answers") else NOT_RUNNING


@command(None, "env", 'eval "$(tidemill env)"\ntidemill env --format powershell | Invoke-Expression')
@click.option(
    "--format",
    "form",
    type=click.Choice(("sh", "powershell", "json")),
    default="sh",
    show_default=True,
    help="For which shell.",
)
def env(session: Session, form: str) -> None:
    """Print the variables that point the Azure ML SDK at this server."""
    from tidemill.server import launch

    if session.given.query is not None:
        print_item(session, launch.variables(session.home))
    else:
        click.echo(launch.env(session.home, "json" if session.output == "json" else form), nl=False)


def show_state(session: Session, found: dict[str, Any]) -> None:
    if session.output != "table":
        print_item(session, found)
        return
    for line in fact_lines(status_facts(found)):
        click.echo(line)


def _who(found: dict[str, Any]) -> str:
    if found["uid"] == 0:
        return f"root: {found.get('why_root') or 'not known why'}"
    return f"uid {found['uid']}"


def status_facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    addresses = found.get("addresses") or {}
    facts = [
        ("home", str(found.get("home", ""))),
        ("control", f"pid {found.get('pid')}"),
        ("data", f"pid {found.get('data_pid')}"),
        ("gateway", f"pid {found.get('gateway_pid')}"),
    ]
    if found.get("remote"):
        relays = "" if found.get("relays") else " (on this machine: nothing is relayed)"
        facts[1:] = [("connection", f"pid {found.get('pid')}"), ("server", f"{found['remote']}{relays}")]
    if found.get("uid") is not None:
        facts.append(("runs as", _who(found)))
    if found.get("listen"):
        facts.append(("listens on", ", ".join(found["listen"])))
        facts.append(("known as", ", ".join(found.get("names") or [])))
    if found.get("fingerprint"):
        facts.append(("fingerprint", str(found["fingerprint"])))
    labels = {"https": "Azure API", "http": "portal", "data": "storage", "gateway": "endpoints"}
    facts.extend((labels.get(name) or name, str(value)) for name, value in addresses.items())
    uptime = found.get("uptime_s")
    if uptime is None and isinstance(found.get("started_at"), int):
        uptime = time.time() - found["started_at"] / 1e6
    if uptime is not None:
        facts.append(("up for", text.duration(uptime)))
    for workspace in found.get("workspaces") or []:
        group = workspace.get("resourceGroup") or workspace.get("group")
        facts.append(
            ("workspace", f"{workspace['name']} (group {group}, subscription {workspace['subscription']})")
        )
    if found.get("running") is not None:
        facts.append(("jobs", f"{found['running']} running, {found.get('queued', 0)} queued"))
    if found.get("nodes") is not None:
        facts.append(("nodes", str(found["nodes"])))
    if found.get("version"):
        facts.append(("version", str(found["version"])))
    return facts
