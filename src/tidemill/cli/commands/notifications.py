"""`tidemill notifications …`: the mail server, and what webhooks may reach."""

from __future__ import annotations

import sys
from typing import Any

import click

from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import command, group
from tidemill.cli.output import print_item
from tidemill.cli.session import Session

notifications = group("notifications", "Messages at the end of jobs: the mail server, and webhooks.")
_PATH = "/api/v1/notifications"
_TEST_S = 60.0


@command(notifications, "show", "tidemill notifications show")
def show(session: Session) -> None:
    """Show how mail is sent and what webhooks may reach."""
    _print(session, session.client.get(_PATH))


@command(
    notifications,
    "set",
    """tidemill notifications set --smtp-host mail.example.org --sender tidemill@example.org --user tidemill --password-stdin
    tidemill notifications set --webhooks "hooks.slack.com 10.1.2.0/24:8080"
    tidemill notifications set --recipients example.org""",  # noqa: E501
)
@click.option("--smtp-host", help="The mail server.")
@click.option(
    "--smtp-port", type=click.IntRange(1, 65535), help="Else 587 (starttls), 465 (tls) or 25 (none)."
)
@click.option("--security", type=click.Choice(("starttls", "tls", "none")), help="Else starttls.")
@click.option("--sender", help="The address that mail comes from.")
@click.option("--user", help="Signs in at the mail server.")
@click.option("--password-stdin", is_flag=True, help="Read its password from standard input.")
@click.option(
    "--recipients", metavar="DOMAIN,…", help="Mail goes to these domains or addresses only; '' for any."
)
@click.option(
    "--webhooks", metavar="RULE", help="What they may reach: internet, closed, or names and networks."
)
def set_(
    session: Session, password_stdin: bool, recipients: str | None, webhooks: str | None, **given: Any
) -> None:
    """Change settings; what is not given stays. The password is sealed at rest."""
    names = {
        "smtp_host": "host",
        "smtp_port": "port",
        "security": "security",
        "sender": "sender",
        "user": "user",
    }
    smtp = {names[key]: value for key, value in given.items() if value is not None}
    if password_stdin:
        smtp["password"] = sys.stdin.readline().rstrip("\n")
    body: dict[str, Any] = {"smtp": smtp} if smtp else {}
    if recipients is not None:
        body["recipients"] = [word for word in recipients.replace(",", " ").split() if word]
    if webhooks is not None:
        body["webhooks"] = webhooks
    if not body:
        raise CliError("Give at least one setting, for example --smtp-host.", USAGE, "UsageError")
    _print(session, session.client.call("PUT", _PATH, body))


@command(notifications, "remove", "tidemill notifications remove")
def remove(session: Session) -> None:
    """Forget the mail server and its password: no mail is sent any more."""
    _print(session, session.client.call("PUT", _PATH, {"smtp": None}))


@command(
    notifications,
    "test",
    """tidemill notifications test --email ann@example.org
    tidemill notifications test --webhook https://hooks.example.org/tidemill""",
)
@click.option("--email", "emails", multiple=True, help="Send it there; repeatable.")
@click.option("--webhook", "url", help="Post it there.")
def test(session: Session, emails: tuple[str, ...], url: str | None) -> None:
    """Send a trial message now, and say what went wrong."""
    if not emails and not url:
        raise CliError("Give --email or --webhook.", USAGE, "UsageError")
    client = session.connect(_TEST_S)
    sent = client.call("POST", f"{_PATH}/test", {"emails": list(emails), "url": url or ""})
    print_item(session, sent, [("sent to", ", ".join(sent["sent"]))])


def _print(session: Session, found: dict[str, Any]) -> None:
    smtp = found["smtp"]
    facts = [("mail", "no mail server is set")]
    if smtp:
        facts = [("mail", f"{smtp['host']}:{smtp['port']} ({smtp['security']}), from {smtp['sender']}")]
        if smtp["user"]:
            facts.append(
                ("signs in", f"as {smtp['user']}, {'with' if smtp['password'] else 'without'} a password")
            )
    facts.append(("recipients", ", ".join(found["recipients"]) or "any"))
    facts.append(("webhooks", found["webhooks"] or "closed"))
    print_item(session, found, facts)
