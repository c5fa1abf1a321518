"""`tidemill backup …`"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import command, group
from tidemill.cli.output import print_item
from tidemill.cli.session import Session

PASSPHRASE = "TIDEMILL_BACKUP_PASSPHRASE"
backup = group("backup", "Everything of a home in one file, and a home of such a file.")

_ASK = click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"The passphrase, in a file (else ${PASSPHRASE}, or it is asked for).",
)


@command(
    backup,
    "create",
    """tidemill backup create --to /mnt/backups
    tidemill backup create --to lab.tidemill-backup --encrypt""",
)
@click.option(
    "--to",
    metavar="FILE|DIR",
    type=click.Path(path_type=Path),
    help="A new file, or a folder (default: the home's own folder backups/).",
)
@click.option("--encrypt", is_flag=True, help="Under a passphrase. A backup has the home's keys in it.")
@_ASK
def create(session: Session, to: Path | None, encrypt: bool, passphrase_file: Path | None) -> None:
    """Back up the home as it is at one moment; its server, jobs and uploads go on meanwhile. Environments and
    images are not in it: they are built and fetched again. Nor is what running jobs have not stored yet."""
    from tidemill.server.backups import making

    passphrase = ""
    if encrypt or passphrase_file is not None:
        passphrase = _passphrase(passphrase_file, new=True)
    made = making.create(session.home, to, passphrase, _Told(session))
    facts = _facts(made)
    if session.output != "table":
        print_item(session, facts)
        return
    what = (
        f"{facts['jobs']} jobs, {facts['blobs']} blobs, {text.size(made.size)}, {text.duration(made.seconds)}"
    )
    click.echo(f"{made.file} ({what})")
    _tell_missing(session, made)
    if not made.encrypted:
        session.note(
            "It holds the home's keys and is not encrypted: whoever has it has everything (--encrypt)."
        )
    if to is None:
        session.note("It lies on the same disk as the home. Keep a copy elsewhere, or give --to.")


@command(backup, "restore", "tidemill backup restore lab.tidemill-backup --home ./lab2")
@click.argument("file", type=click.Path(path_type=Path))
@_ASK
def restore(session: Session, file: Path, passphrase_file: Path | None) -> None:
    """Make a new home of a backup. The whole file is verified before anything is written, and a home that is
    not empty is refused. Jobs that ran then end when the home is first started; jobs that waited run."""
    from tidemill.server.backups import archive, making

    sealed = archive.is_sealed(file)
    passphrase = _passphrase(passphrase_file, new=False) if sealed else ""
    made = making.restore(file, session.home, passphrase, _Told(session))
    facts = _facts(made)
    if session.output != "table":
        print_item(session, facts)
        return
    click.echo(f"{session.home}: restored as it was at {facts['created_at']}, {facts['jobs']} jobs.")
    _tell_missing(session, made)
    session.note(f"{session.start_hint} (--https-port 0 … where its old ports are taken)")


def _facts(made: Any) -> dict[str, Any]:
    header = made.header
    return {
        "file": str(made.file),
        "size": made.size,
        "created_at": datetime.fromtimestamp(header.created_at / 1e6, UTC).isoformat(timespec="seconds"),
        "home": header.home,
        "version": header.version,
        "jobs": header.jobs,
        "blobs": header.blobs,
        "missing_blobs": header.missing,
        "encrypted": made.encrypted,
        "seconds": round(made.seconds, 3),
    }


def _tell_missing(session: Session, made: Any) -> None:
    if made.header.missing:
        session.note(
            f"{made.header.missing} blobs are not in it: the home {made.header.home} had lost their files."
        )


def _passphrase(file: Path | None, new: bool) -> str:
    """Never on the command line, where everybody on the host could read it."""
    if file is not None:
        try:
            words = file.read_text().strip("\r\n")
        except UnicodeDecodeError:
            raise CliError(
                f"{file} is no text: its first line is the passphrase.", USAGE, "UsageError"
            ) from None
    elif os.environ.get(PASSPHRASE):
        words = os.environ[PASSPHRASE]
    elif sys.stdin.isatty():
        words = str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True))
    else:
        raise CliError(
            f"No passphrase: give --passphrase-file FILE, or set {PASSPHRASE}.", USAGE, "PassphraseNeeded"
        )
    if not words:
        raise CliError("The passphrase is empty.", USAGE, "PassphraseNeeded")
    return words


class _Told:
    """Progress on stderr: on a terminal in one line, else now and then, and not of what is soon done."""

    def __init__(self, session: Session) -> None:
        self._live = sys.stderr.isatty()
        self._quiet = session.output != "table" and not self._live
        self._every = 0.2 if self._live else 10.0
        self._last = time.monotonic()
        self._line = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._quiet or now - self._last < self._every:
            return
        self._last = now
        of = f" of {text.size(total)}" if total else ""
        line = f"{what}: {text.size(done)}{of}"
        if self._live:
            click.echo(f"\r{line:<{len(self._line)}}", nl=done >= total > 0, err=True)
            self._line = line
        else:
            click.echo(line, err=True)
