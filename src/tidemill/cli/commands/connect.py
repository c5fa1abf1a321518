"""`tidemill connect | login | logout`: a server on another machine."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

import click

from tidemill.cli.commands.credentials import read_password
from tidemill.cli.commands.portal import has_display
from tidemill.cli.commands.server import show_state
from tidemill.cli.errors import FAILED, REFUSED, USAGE, CliError
from tidemill.cli.framework import command
from tidemill.cli.remote import tokens
from tidemill.cli.remote.clienthome import ClientHome, Remote
from tidemill.cli.remote.trust import Wire, fetch_ca, parse_place
from tidemill.cli.session import Session

READY_S = 30.0


class How(TypedDict):
    """How a person or program signs in; empty: with a code in any browser."""

    browser: bool

    user: str | None
    password_stdin: bool
    client_id: str | None
    secret_stdin: bool


def sign_in_options(function: Any) -> Any:
    for option in (
        click.option("--secret-stdin", is_flag=True, help="Read the program's secret from standard input."),
        click.option("--client-id", metavar="ID", help="Sign in as this program, with a client secret."),
        click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
        click.option(
            "--user", metavar="NAME", help="Sign in with a password (default: a code in a browser)."
        ),
        click.option(
            "--browser", is_flag=True, help="Sign in with a browser of this machine, without a code."
        ),
    ):
        function = option(function)
    return function


@command(
    None,
    "connect",
    """tidemill connect gpu1.example.org --fingerprint sha256:… --user ann
    tidemill connect gpu1.example.org:8443 --detach
    eval "$(tidemill env)"
    """,
)
@click.argument("place", metavar="[HOST[:PORT]]", required=False)
@click.option(
    "--fingerprint", metavar="SHA256", help="Of the server's CA, as `tidemill status` shows it there."
)
@click.option(
    "--ca",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="The server's CA (its tls/ca.pem), instead of a fingerprint.",
)
@click.option("--detach", "-d", is_flag=True, help="Return when it is ready; it runs on in the background.")
@sign_in_options
def connect(
    session: Session, place: str | None, fingerprint: str | None, ca: str | None, detach: bool, **how: Any
) -> None:
    """Give this machine the `localhost` ports that the Azure ML SDK needs to reach a server elsewhere.

    Signs in the first time; later `tidemill connect` alone is enough, until the sign-in ends. Give it a home
    of its own (--home) where a server runs here, too."""
    home = ClientHome(session.home)
    if place is None and not home.exists:
        raise CliError("Where to? Give HOST or HOST:PORT, as the server was started with --name.", USAGE)
    home.prepare()
    remote = _trusted(session, home, place, fingerprint, ca)
    if home.sign_in() is None or how["user"] or how["client_id"] or how["browser"]:
        _sign_in(session, home, remote, How(**how))
    if detach:
        show_state(session, _spawn(home))
    else:
        _serve(session, home)
        return
    session.note(f'Use the Azure ML SDK with: eval "$(tidemill env{session.home_flag})"')


@command(None, "login", "tidemill login --user ann")
@sign_in_options
def login(session: Session, **how: Any) -> None:
    """Sign in again to the server that this home is connected to."""
    if (session.home / "config.json").exists():
        raise CliError(
            f"{session.home} is the home of your own server: there you are its owner, signed in always.",
            REFUSED,
        )
    home = ClientHome(session.home)
    _sign_in(session, home, home.remote(), How(**how))


@command(None, "logout", "tidemill logout --everywhere")
@click.option("--everywhere", is_flag=True, help="End your sign-ins on other machines and in browsers, too.")
def logout(session: Session, everywhere: bool) -> None:
    """Sign out of the server that this home is connected to."""
    home = ClientHome(session.home)
    remote = home.remote()
    tokens.sign_out(_wire(home, remote), home, everywhere)
    session.note(f"Signed out of {remote.shown}{' everywhere' if everywhere else ''}.")


def _trusted(
    session: Session, home: ClientHome, place: str | None, fingerprint: str | None, ca: str | None
) -> Remote:
    """The server, its CA believed and kept. The CA may have been issued anew; its key must be the one
    known."""
    known = home.remote() if home.exists else None
    if place is not None:
        host, port = parse_place(place)
        if known is not None and (known.host, known.port) != (host, port):
            raise CliError(
                f"This home is connected to {known.shown}. Give another home for {place}: --home DIR", REFUSED
            )
    else:
        assert known is not None
        host, port = known.host, known.port
    pem, found = fetch_ca(host, port)
    wanted = fingerprint or (known.fingerprint if known else None)
    if ca is not None:
        from tidemill.identity.ca import fingerprint as fingerprint_of

        wanted = fingerprint_of(Path(ca).read_bytes())
    if wanted is None:
        _confirm(session, host, found)
    elif _plain(wanted) != _plain(found):
        raise CliError(
            f"The server at {host}:{port} has the fingerprint {found}, not {wanted}. It is another "
            "server, or somebody is in between. Nothing was sent to it.",
            REFUSED,
            "CertificateNotTrusted",
        )
    addresses = Wire(host, port, pem).json("GET", "/.well-known/tidemill")["addresses"]
    ports = {name: urlsplit(address).port or 0 for name, address in addresses.items()}
    remote = Remote(host, port, found, ports)
    if known is not None:
        remote = replace(remote, identity_port=known.identity_port)
    home.save_remote(remote, pem)
    return remote


def _confirm(session: Session, host: str, found: str) -> None:
    session.note(f"{host} has the fingerprint\n  {found}\nOn the server, `tidemill status` shows it, too.")
    if not sys.stdin.isatty():
        raise CliError(
            f"Give it once it is compared: --fingerprint {found}", REFUSED, "FingerprintNotConfirmed"
        )
    if not click.confirm("Is it the same?", err=True):
        raise CliError("Not connected.", REFUSED, "FingerprintNotConfirmed")


def _plain(fingerprint: str) -> str:
    return fingerprint.lower().removeprefix("sha256:").replace(":", "").strip()


def _wire(home: ClientHome, remote: Remote) -> Wire:
    return Wire(remote.host, remote.port, home.ca.read_bytes())


def _sign_in(session: Session, home: ClientHome, remote: Remote, how: How) -> None:
    wire = _wire(home, remote)
    if sum(map(bool, (how["user"], how["client_id"], how["browser"]))) > 1:
        raise CliError("Give one of --user, --client-id and --browser.", USAGE)
    if how["client_id"]:
        secret = read_password("Client secret", how["secret_stdin"])
        kept = tokens.by_secret(wire, how["client_id"], secret)
    elif how["user"]:
        password = read_password(f"Password of {how['user']} at {remote.host}", how["password_stdin"])
        kept = tokens.by_password(wire, how["user"], password)
    else:
        kept = _by_browser(session, home, remote, wire, how["browser"])
    home.save_sign_in(kept)
    session.note(f"Signed in to {remote.shown}.")


def _by_browser(session: Session, home: ClientHome, remote: Remote, wire: Wire, here: bool) -> dict[str, Any]:
    """On this machine the server's pages are at their loopback address, without a warning of the browser."""
    from tidemill.cli.remote.relay import http_only
    from tidemill.server.lock import holder

    def show(device: dict[str, Any]) -> None:
        code = device["user_code"]
        session.note(
            f"To sign in, open\n  {device['verification_uri_complete']}\nin a browser on this machine, or "
            f"https://{remote.shown}/ui/device anywhere, and compare the code: {code}"
        )

    def open_page(address: str) -> None:
        session.note(f"To sign in, open in a browser on this machine:\n  {address}")
        if has_display():
            import webbrowser

            webbrowser.open(address)

    def signed_in() -> dict[str, Any]:
        portal = f"http://127.0.0.1:{remote.ports['http']}"
        return tokens.by_loopback(wire, portal, open_page) if here else tokens.by_device(wire, show)

    if holder(home.lock) is not None:
        return signed_in()
    with http_only(remote, wire):
        return signed_in()


def _serve(session: Session, home: ClientHome) -> None:
    import asyncio

    from tidemill.cli.remote.relay import run
    from tidemill.server.lock import HomeLock

    def ready(state: dict[str, Any]) -> None:
        show_state(session, state)
        session.note(f'Use the Azure ML SDK with: eval "$(tidemill env{session.home_flag})"')
        session.note("Ctrl-C ends the connection; jobs that run go on.")

    lock = HomeLock.acquire(home.lock)
    try:
        asyncio.run(run(home, ready))
    finally:
        lock.release()


def _spawn(home: ClientHome) -> dict[str, Any]:
    read_end, write_end = os.pipe()
    argv = [sys.executable, "-m", "tidemill.cli.remote.relay", "--home", str(home.root)]
    with open(home.log, "ab") as log:
        child = subprocess.Popen(
            [*argv, "--ready-fd", str(write_end)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[write_end],
            start_new_session=True,
        )
    os.close(write_end)
    with os.fdopen(read_end, "rb") as outcome:
        until = time.monotonic() + READY_S
        if select.select([outcome], [], [], max(0.0, until - time.monotonic()))[0]:
            line = outcome.readline()
            found = json.loads(line) if line else {}
        else:
            child.kill()
            found = {}
    if "ready" in found:
        child.returncode = 0  # it lives on; it is not ours to wait for
        return found["ready"]
    child.wait(READY_S)
    error = found.get("error") or {}
    raise CliError(
        error.get("message") or f"The connection did not open. Its log has the reason: {home.log}",
        REFUSED if error else FAILED,
        error.get("code") or "ConnectFailed",
    )
