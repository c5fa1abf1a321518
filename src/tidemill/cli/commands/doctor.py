"""`tidemill doctor`: what this host has, what is missing and how to get it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from tidemill.cli.errors import FAILED, OK
from tidemill.cli.framework import command
from tidemill.cli.output import print_item
from tidemill.cli.session import Session


@command(None, "doctor", "tidemill doctor\ntidemill doctor --require full")
@click.option(
    "--require",
    type=click.Choice(("plain", "rootless", "full")),
    help="Exit with 1 where this host does not reach the level.",
)
def doctor(session: Session, require: str | None) -> int:
    """Open a node on this host, say which limits it enforces and why not the others, and close it again."""
    from tidemill.app.views import doctor as app
    from tidemill.domain.isolation import shortfall
    from tidemill.server import launch

    limits, runtimes = launch.tried(session.home)
    found = app.examine(limits, runtimes, launch.why_root(session.home))
    problem = shortfall(require, limits) if require else ""
    if session.output == "table":
        for check in found.checks:
            click.echo(_line(check))
        more = app.next_level(found.level, limits)
        session.note(f"Isolation here: {found.level}{f' ({more})' if more else ''}.")
        if problem:
            session.note(f"{problem[:1].upper()}{problem[1:]}")
    else:
        checks = [asdict(check) for check in found.checks]
        print_item(session, {"isolation": found.level, "required": require, "checks": checks})
    return FAILED if problem else OK


def _line(check: Any) -> str:
    """Whole sentences, however wide the terminal is."""
    fix = f"\n{'':23}To have it: {check.fix}" if check.fix else ""
    return f"{check.state:9} {check.name:12} {check.text}{fix}"
