"""`tidemill portal`: sign a browser in."""

from __future__ import annotations

import os
import sys
from urllib.parse import quote

import click

from tidemill.cli.framework import command
from tidemill.cli.output import print_item
from tidemill.cli.session import Session


@command(None, "portal", "tidemill portal\ntidemill portal --job train-1 --no-browser")
@click.option("--job", "-j", metavar="NAME", help="Go to the page of this job.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def portal(session: Session, job: str | None, no_browser: bool) -> None:
    """Print an address that signs a browser in to the portal, once, and open it where there is a display."""
    subscription, group, workspace = (quote(part, safe="") for part in session.scope)
    place = f"/ui/{subscription}/{group}/{workspace}/jobs"
    if job:
        place += "/" + quote(job, safe="")
    answer = session.client.call("POST", "/api/v1/portal/link", {"next": place})
    if session.output != "table":
        print_item(session, answer)
        return
    click.echo(answer["url"])
    session.note("It signs in one browser and is good for two minutes.")
    if not no_browser and has_display():
        import webbrowser

        webbrowser.open(answer["url"])


def has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
