"""`tidemill access …`: passwords of people, secrets and certificates of programs. Adds to the group
`access`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from tidemill.cli.commands.access import BASE, access
from tidemill.cli.errors import FAILED, USAGE, CliError
from tidemill.cli.framework import Whole, command
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.cli.text import ago, plain
from tidemill.cli.urls import segment

CERTIFICATE_DAYS = 365
_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input, one line."
)


@command(
    access,
    "set-password",
    "tidemill access set-password ann\ntidemill access set-password ann --password-stdin < file",
)
@click.argument("user")
@_stdin
def set_password(session: Session, user: str, password_stdin: bool) -> None:
    """Set a user's password. Their sign-ins elsewhere end."""
    password = read_password(f"New password of {user}", password_stdin, confirm=True)
    done = session.client.call("PUT", f"{BASE}/principals/{segment(user)}/password", {"password": password})
    session.note(f"{done['name']} has a new password; their other sign-ins have ended.")


@command(access, "change-password", "tidemill access change-password")
@click.option(
    "--password-stdin", is_flag=True, help="Read two lines from standard input: the old one, the new one."
)
def change_password(session: Session, password_stdin: bool) -> None:
    """Change your own password. Your sign-ins elsewhere end."""
    if password_stdin:
        current, password = (sys.stdin.readline().rstrip("\r\n") for _ in range(2))
    else:
        current = read_password("Your password now", False)
        password = read_password("New password", False, confirm=True)
    body = {"current": current, "password": password}
    done = session.client.call("PUT", f"{BASE}/me/password", body)
    session.note(f"{done['name']} has a new password; your other sign-ins have ended.")


@command(
    access,
    "create-secret",
    "tidemill access create-secret nightly-training --days 90",
)
@click.argument("principal")
@click.option("--days", type=int, help="How long it is good (default 180, at most 730).")
@click.option("--label", default="", help="What it is for.")
def create_secret(session: Session, principal: str, days: int | None, label: str) -> None:
    """Make a client secret for a program. It is shown this once."""
    body: dict[str, Any] = {"name": label} | ({} if days is None else {"days": days})
    made = session.client.call("POST", f"{BASE}/principals/{segment(principal)}/secrets", body)
    print_item(session, made)
    if session.output == "table":
        session.note("Keep the secret: it cannot be shown again.")


@command(
    access,
    "create-certificate",
    """tidemill access create-certificate nightly-training --out nightly.pem
    tidemill access create-certificate nightly-training --certificate existing.pem""",
)
@click.argument("principal")
@click.option("--out", metavar="FILE", type=click.Path(), help="Where the new key and certificate go (0600).")
@click.option(
    "--certificate",
    "existing",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="A certificate (PEM) that the program has already, instead of a new one.",
)
@click.option("--days", type=Whole(1, 730), default=CERTIFICATE_DAYS, show_default=True)
@click.option("--label", default="", help="What it is for.")
def create_certificate(
    session: Session, principal: str, out: str | None, existing: str | None, days: int, label: str
) -> None:
    """Give a program a certificate to sign in with; its key stays on this machine."""
    if (out is None) == (existing is None):
        raise CliError(
            "Give --out FILE for a new certificate, or --certificate FILE for one that is there.", USAGE
        )
    if existing is not None:
        pem = _certificate_in(Path(existing))
    else:
        pem = _make_pair(Path(out or ""), principal, days)
    body = {"name": label, "certificate": pem}
    made = session.client.call("POST", f"{BASE}/principals/{segment(principal)}/certificates", body)
    print_item(session, made)


@command(access, "list-credentials", "tidemill access list-credentials nightly-training")
@click.argument("who")
def list_credentials(session: Session, who: str) -> None:
    """List what somebody can sign in with; never the values."""
    columns = (
        Column("id", key("id")),
        Column("kind", key("kind")),
        Column("hint", key("hint")),
        Column("label", key("name"), wide=True),
        Column("created", key("created_at"), ago),
        Column("by", key("created_by")),
        Column("expires", key("expires_at"), lambda value, now: plain(value)[:10] if value else "never"),
    )
    rows = session.client.get(f"{BASE}/principals/{segment(who)}/credentials")["value"]
    print_list(session, rows, columns, f"{who} has no password, secret or certificate.")


@command(access, "delete-credential", "tidemill access delete-credential nightly-training ID")
@click.argument("who")
@click.argument("id")
def delete_credential(session: Session, who: str, id: str) -> None:
    """Take a password, secret or certificate away. Sign-ins end at once, programs' tokens within an hour."""
    path = f"{BASE}/principals/{segment(who)}/credentials/{segment(id)}"
    gone = session.client.call("DELETE", path)
    session.note(f"The {gone['kind']} {gone['id']} of {who} is gone.")


@command(access, "sign-out", "tidemill access sign-out ann")
@click.argument("who")
def sign_out(session: Session, who: str) -> None:
    """End every sign-in of somebody, at once."""
    done = session.client.call("POST", f"{BASE}/principals/{segment(who)}/signOut")
    session.note(f"{done['ended']} sign-ins of {who} have ended.")


@command(
    access,
    "add-provider",
    "tidemill access add-provider corp --issuer https://login.example.org --client-id tm --domain "
    "example.org\ntidemill access add-provider corp --issuer https://login.example.org --client-id tm "
    "--group ml-team=vision",
)
@click.argument("name")
@click.option("--issuer", required=True, metavar="URL", help="As in its /.well-known/openid-configuration.")
@click.option("--client-id", required=True, metavar="ID", help="What the provider calls this server.")
@click.option("--secret-stdin", is_flag=True, help="Read the client secret from standard input, one line.")
@click.option(
    "--domain", "domains", multiple=True, help="Let people with a verified e-mail address of it in."
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="THEIRS=OURS",
    help="Let people of a group of the provider in, and put them into a group here.",
)
@click.option("--label", default="", help="On the button (default: the name).")
@click.option("--user-claim", default="email", show_default=True, help="The claim that users are called by.")
@click.option("--groups-claim", default="groups", show_default=True, help="The claim with a person's groups.")
@click.option("--scope", "scopes", multiple=True, help="Scopes to ask for besides openid, profile and email.")
def add_provider(
    session: Session,
    name: str,
    secret_stdin: bool,
    groups: tuple[str, ...],
    scopes: tuple[str, ...],
    **given: Any,
) -> None:
    """Let people sign in with an OpenID Connect provider; also changes one."""
    mapped: dict[str, str] = {}
    for text in groups:
        theirs, separator, ours = text.partition("=")
        if not separator or not theirs or not ours:
            raise CliError(f"--group {text!r} must be THEIRS=OURS.", USAGE)
        mapped[theirs] = ours
    body = {**given, "groups": mapped, "scopes": list(dict.fromkeys(("openid", "profile", "email", *scopes)))}
    if secret_stdin:
        body["client_secret"] = read_password("Client secret", True)
    made = session.client.call("PUT", f"{BASE}/providers/{segment(name)}", body)
    print_item(session, made)
    if session.output == "table":
        session.note("Register at the provider, as redirect URI, those of these that people use:")
        for uri in made["redirect_uris"]:
            session.note(f"  {uri}")


@command(access, "list-providers", "tidemill access list-providers")
def list_providers(session: Session) -> None:
    """List the OpenID Connect providers that people can sign in with."""
    columns = (
        Column("name", key("name")),
        Column("issuer", key("issuer"), wide=True),
        Column("client id", key("client_id")),
        Column("domains", key("domains"), lambda value, now: ", ".join(value) or "-"),
        Column(
            "groups", key("groups"), lambda value, now: ", ".join(f"{a}={b}" for a, b in value.items()) or "-"
        ),
    )
    print_list(session, session.client.get(f"{BASE}/providers")["value"], columns, "There is no provider.")


@command(access, "remove-provider", "tidemill access remove-provider corp")
@click.argument("name")
def remove_provider(session: Session, name: str) -> None:
    """Nobody can sign in with it any more; people who came through it stay."""
    session.client.call("DELETE", f"{BASE}/providers/{segment(name)}")
    session.note(f"The provider {name} is gone.")


def read_password(prompt: str, from_stdin: bool, confirm: bool = False) -> str:
    """Typed unseen, or one line of standard input; never an argument, which others could read."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise CliError(
            "There is no terminal to type a password on. Use --password-stdin and standard input.", USAGE
        )
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


def _certificate_in(path: Path) -> str:
    """The certificate alone, where the file has its key beside it."""
    text = path.read_text(errors="replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in text or end not in text:
        raise CliError(f"{path} has no PEM certificate (-----BEGIN CERTIFICATE-----).", USAGE)
    return text[text.index(begin) : text.index(end) + len(end)] + "\n"


def _make_pair(path: Path, name: str, days: int) -> str:
    """Writes key and certificate to `path`. -> the certificate. RSA: azure-identity takes no other."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key_pair = rsa.generate_private_key(65537, 3072)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key_pair.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key_pair, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key_pair.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CliError(f"{path} is there already; give --out another name.", FAILED) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(private + pem)
    return pem.decode()
